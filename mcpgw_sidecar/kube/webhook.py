"""The admission webhook: AdmissionReviews in, JSON patches out, under a certificate that it makes itself.

Its authority is in a Secret that all replicas share. Each replica looks at it every `LOOK` seconds: makes it when it is missing, replaces it
when a third of its life is left, writes old and new one into the caBundle, and only then serves with the new one. An API server
that read the bundle before trusts the old, which stays in it until the next replacement.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs
import trio

from mcpgw_sidecar import PROGRAM
from mcpgw_sidecar.errors import ApiError
from mcpgw_sidecar.kube.api import KubeApi, Raw
from mcpgw_sidecar.kube.authority import Authority, ServerIdentity, make_authority, make_server
from mcpgw_sidecar.manifests.rights import WEBHOOK
from mcpgw_sidecar.manifests.sidecar import INJECT_LABEL, Sidecar, patch
from mcpgw_sidecar.manifests.webhook import PATH
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.resources.kinds import ANY_SECRET, SECRET, WEBHOOK_CA_NAME, ResourceKind
from mcpgw_sidecar.runtime.http import Receive, Scope, Send, wait_body

log = get_logger(__name__)

LOOK = 10.0  # seconds
MAX_REVIEW = 8 << 20  # bytes; an object of etcd's 1.5 MiB comes twice in a review
CONFIGURATION = ResourceKind(
    name="MutatingWebhookConfiguration",
    plural="mutatingwebhookconfigurations",
    group="admissionregistration.k8s.io",
)
_CERTIFICATE, _KEY, _BUNDLE = "tls.crt", "tls.key", "ca.crt"
_NOT_FOUND, _CONFLICT = 404, 409
_OK, _BAD, _TOO_LARGE, _ELSEWHERE = 200, 400, 413, 404


@attrs.define
class WebhookApp:
    """The ASGI application."""

    sidecar: Sidecar
    ready: Callable[[], bool]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        body = await wait_body(receive, MAX_REVIEW)
        if body is None:
            status, answer = _TOO_LARGE, b'{"error":"too large"}'
        elif scope["path"] == "/healthz":
            status, answer = (_OK, b'{"ok":true}') if self.ready() else (503, b'{"ok":false}')
        elif scope["path"] == PATH:
            status, answer = self.reviewed(body)
        else:
            status, answer = _ELSEWHERE, json.dumps({"error": f"Not found. Paths: {PATH}, /healthz"}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def reviewed(self, body: bytes) -> tuple[int, bytes]:
        """An AdmissionReview's answer: always allowed, with a patch where there is something to inject."""
        try:
            request = json.loads(body)["request"]
            uid, pod = str(request["uid"]), request["object"]
            operations, done = patch(pod, self.sidecar)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("Review refused: it cannot be read", error=repr(error))
            return _BAD, json.dumps({"error": "this is no AdmissionReview of a Pod"}).encode()
        meta = pod.get("metadata") or {}
        where = f"{request.get('namespace', '')}/{meta.get('name') or meta.get('generateName', '')}"
        response: dict[str, Any] = {"uid": uid, "allowed": True}
        if operations:
            response["patchType"] = "JSONPatch"
            response["patch"] = base64.b64encode(json.dumps(operations).encode()).decode()
            log.info("Sidecar injected", pod=where)
        asked = (meta.get("labels") or {}).get(INJECT_LABEL) == "enabled"
        if done.problem is not None and asked:  # where the namespace asked, pods without Envoy are as they should be
            response["warnings"] = [f"{PROGRAM}: no sidecar: {done.problem}"]
            log.warning("Sidecar not injected", pod=where, reason=done.problem)
        elif done.remark is not None:
            response["warnings"] = [f"{PROGRAM}: {done.remark}"]
            log.warning("To be done by hand", pod=where, remark=done.remark)
        return _OK, json.dumps(
            {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
        ).encode()


@attrs.define
class Certificates:
    """The authority in its Secret, the caBundle, and what is served with. `names` are the DNS names of the webhook."""

    api: KubeApi
    namespace: str
    names: list[str]
    identity: ServerIdentity | None = None
    _said: str | None = None

    def context(self) -> ssl.SSLContext:
        """The context of the moment; there is one once `wait_current` has returned."""
        assert self.identity is not None  # noqa: S101  # nothing is served before
        return self.identity.context

    async def wait_following(self) -> None:
        """Keep everything current for ever."""
        while True:
            await trio.sleep(LOOK)
            try:
                await self.wait_current()
                self._said = None
            except (ApiError, ValueError) as error:
                if str(error) != self._said:
                    log.warning("Certificates not renewed, will retry", error=str(error))
                self._said = str(error)

    async def wait_current(self) -> None:
        """Read, make or replace the authority; have it trusted; serve with it. Raises ApiError, ValueError."""
        authority, bundle = await self._wait_authority()
        await self._wait_trusted(authority, bundle)
        now = datetime.now(UTC)
        if self.identity is None or self.identity.signer != authority or self.identity.due(now):
            self.identity = make_server(authority, self.names, now)
            log.info("Serving with a new certificate", names=",".join(self.names))

    async def _wait_authority(self) -> tuple[Authority, bytes]:
        path, now = ANY_SECRET.path(self.namespace, WEBHOOK_CA_NAME), datetime.now(UTC)
        while True:
            try:
                found = await self.api.wait_json("GET", path)
            except ApiError as error:
                if error.status != _NOT_FOUND:
                    raise
                found = None
            authority, bundle = _read(found)
            if found is not None and authority is not None and not authority.due(now):
                return authority, bundle
            new = make_authority(now)
            old = authority.certificate if authority is not None else b""
            try:
                await self._wait_kept(found, new, new.certificate + old)
            except ApiError as error:
                if error.status != _CONFLICT:
                    raise
                continue  # another replica was faster: read what it made
            log.info("New authority for the webhook", secret=f"{self.namespace}/{WEBHOOK_CA_NAME}")
            return new, new.certificate + old

    async def _wait_kept(self, found: Raw | None, new: Authority, bundle: bytes) -> None:
        values = {_CERTIFICATE: new.certificate, _KEY: new.key, _BUNDLE: bundle}
        data = {key: base64.b64encode(value).decode() for key, value in values.items()}
        if found is not None:  # with its version: a conflict says that it changed meanwhile
            await self.api.wait_json("PUT", ANY_SECRET.path(self.namespace, WEBHOOK_CA_NAME), body={**found, "data": data})
            return
        meta = {"name": WEBHOOK_CA_NAME, "namespace": self.namespace}
        body = {"apiVersion": "v1", "kind": SECRET.name, "metadata": meta, "type": "Opaque", "data": data}
        await self.api.wait_json("POST", ANY_SECRET.path(self.namespace), body=body)

    async def _wait_trusted(self, authority: Authority, bundle: bytes) -> None:
        """Write the bundle where our authority is missing; one that has it and more is of a replica that has replaced it already."""
        path, wanted = CONFIGURATION.path(name=PROGRAM), base64.b64encode(bundle).decode()
        found = await self.api.wait_json("GET", path)
        hooks: list[dict[str, Any]] = found.get("webhooks") or []
        if all(authority.certificate in base64.b64decode(hook["clientConfig"].get("caBundle") or "") for hook in hooks):
            return
        hooks = [{**hook, "clientConfig": {**hook["clientConfig"], "caBundle": wanted}} for hook in hooks]
        meta = {"resourceVersion": found["metadata"]["resourceVersion"]}
        await self.api.wait_json("PATCH", path, body={"metadata": meta, "webhooks": hooks})
        log.info("The API server trusts this webhook", configuration=PROGRAM)


def service_names(namespace: str) -> list[str]:
    """The DNS names under which the API server asks."""
    name = f"{WEBHOOK}.{namespace}"
    return [f"{name}.svc", f"{name}.svc.cluster.local", "localhost"]


def _read(found: Mapping[str, Any] | None) -> tuple[Authority | None, bytes]:
    """The authority of a Secret and its bundle; None for a Secret in which there is none that can be used."""
    data = (found or {}).get("data") or {}
    try:
        authority = Authority(base64.b64decode(data[_CERTIFICATE]), base64.b64decode(data[_KEY]))
        authority.check()
        return authority, base64.b64decode(data[_BUNDLE])
    except (KeyError, ValueError):
        return None, b""
