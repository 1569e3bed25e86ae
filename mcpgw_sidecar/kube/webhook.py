"""The admission webhook: AdmissionReviews in, JSON patches out, with a certificate of its own.

All replicas share a Secret with the certificate authority. Each replica reads the Secret every
`LOOK` seconds. It creates a missing authority, and replaces one of whose life a third is left. It
writes the old and the new authority into the caBundle, and only then serves with a certificate of
the new one. An API server that still has the bundle from before trusts the old authority, which
stays in the bundle until the next replacement.
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
from mcpgw_sidecar.manifests.container import Sidecar
from mcpgw_sidecar.manifests.rights import WEBHOOK
from mcpgw_sidecar.manifests.sidecar import INJECT_LABEL, patch
from mcpgw_sidecar.manifests.webhook import PATH
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.resources.kinds import ANY_SECRET, SECRET, WEBHOOK_CA_NAME, ResourceKind
from mcpgw_sidecar.runtime.http import Receive, Scope, Send, wait_body

log = get_logger(__name__)

LOOK = 2.0  # seconds; a bundle that somebody replaced fails every pod that the webhook should see
MAX_REVIEW = 8 << 20  # bytes; a review holds an object (1.5 MiB at most in etcd) twice
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
        """HTTP status and body that answer an AdmissionReview.

        The pod is always allowed; one that gets the sidecar also gets a patch.
        """
        try:
            request = json.loads(body)["request"]
            uid, pod = str(request["uid"]), request["object"]
            operations, result = patch(pod, self.sidecar)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("Review refused: it cannot be read", error=repr(error))
            return _BAD, json.dumps({"error": "this is no AdmissionReview of a Pod"}).encode()
        meta = pod.get("metadata") or {}
        pod_name = f"{request.get('namespace', '')}/{meta.get('name') or meta.get('generateName', '')}"
        response: dict[str, Any] = {"uid": uid, "allowed": True}
        if operations:
            response["patchType"] = "JSONPatch"
            response["patch"] = base64.b64encode(json.dumps(operations).encode()).decode()
            log.info("Sidecar injected", pod=pod_name)
        is_labelled = (meta.get("labels") or {}).get(INJECT_LABEL) == "enabled"
        # No warning for the label of a namespace, which may well have pods without Envoy.
        if result.problem is not None and is_labelled:
            response["warnings"] = [f"{PROGRAM}: no sidecar: {result.problem}"]
            log.warning("Sidecar not injected", pod=pod_name, reason=result.problem)
        elif result.remark is not None:
            response["warnings"] = [f"{PROGRAM}: {result.remark}"]
            log.warning("To be done by hand", pod=pod_name, remark=result.remark)
        return _OK, json.dumps(
            {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
        ).encode()


@attrs.define
class Certificates:
    """The authority in its Secret, the caBundle, and the server certificate.

    `names` are the DNS names of the webhook.
    """

    api: KubeApi
    namespace: str
    names: list[str]
    identity: ServerIdentity | None = None
    _error: str | None = None

    def context(self) -> ssl.SSLContext:
        """The current TLS context; there is one once `wait_current` has returned."""
        assert self.identity is not None  # noqa: S101  # the webhook serves only after that
        return self.identity.context

    async def wait_following(self) -> None:
        """Keep authority, caBundle and certificate current, for ever."""
        while True:
            await trio.sleep(LOOK)
            try:
                await self.wait_current()
                self._error = None
            except (ApiError, ValueError) as error:
                if str(error) != self._error:
                    log.warning("Certificates not renewed, will retry", error=str(error))
                self._error = str(error)

    async def wait_current(self) -> None:
        """Read, create or replace the authority, have the API server trust it, and serve with it.

        Raises ApiError, ValueError.
        """
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
                secret = await self.api.wait_json("GET", path)
            except ApiError as error:
                if error.status != _NOT_FOUND:
                    raise
                secret = None
            authority, bundle = _authority_of(secret)
            if secret is not None and authority is not None and not authority.due(now):
                return authority, bundle
            new_authority = make_authority(now)
            old_certificate = authority.certificate if authority is not None else b""
            try:
                await self._wait_kept(secret, new_authority, new_authority.certificate + old_certificate)
            except ApiError as error:
                if error.status != _CONFLICT:
                    raise
                continue  # another replica was faster: read its authority
            log.info("New authority for the webhook", secret=f"{self.namespace}/{WEBHOOK_CA_NAME}")
            return new_authority, new_authority.certificate + old_certificate

    async def _wait_kept(self, secret: Raw | None, authority: Authority, bundle: bytes) -> None:
        values = {_CERTIFICATE: authority.certificate, _KEY: authority.key, _BUNDLE: bundle}
        data = {key: base64.b64encode(value).decode() for key, value in values.items()}
        if secret is not None:  # with the version: a conflict says that it changed meanwhile
            await self.api.wait_json("PUT", ANY_SECRET.path(self.namespace, WEBHOOK_CA_NAME), body={**secret, "data": data})
            return
        meta = {"name": WEBHOOK_CA_NAME, "namespace": self.namespace}
        body = {"apiVersion": "v1", "kind": SECRET.name, "metadata": meta, "type": "Opaque", "data": data}
        await self.api.wait_json("POST", ANY_SECRET.path(self.namespace), body=body)

    async def _wait_trusted(self, authority: Authority, bundle: bytes) -> None:
        """Write the bundle into each caBundle that lacks our authority.

        A caBundle with our authority and another one is from a replica that has replaced ours
        already: it stays.
        """
        path, ca_bundle = CONFIGURATION.path(name=PROGRAM), base64.b64encode(bundle).decode()
        webhook = await self.api.wait_json("GET", path)
        hooks: list[dict[str, Any]] = webhook.get("webhooks") or []
        if all(authority.certificate in base64.b64decode(hook["clientConfig"].get("caBundle") or "") for hook in hooks):
            return
        hooks = [{**hook, "clientConfig": {**hook["clientConfig"], "caBundle": ca_bundle}} for hook in hooks]
        meta = {"resourceVersion": webhook["metadata"]["resourceVersion"]}
        await self.api.wait_json("PATCH", path, body={"metadata": meta, "webhooks": hooks})
        log.info("The API server trusts this webhook", configuration=PROGRAM)


def service_names(namespace: str) -> list[str]:
    """The DNS names by which the API server calls the webhook."""
    name = f"{WEBHOOK}.{namespace}"
    return [f"{name}.svc", f"{name}.svc.cluster.local", "localhost"]


def _authority_of(secret: Mapping[str, Any] | None) -> tuple[Authority | None, bytes]:
    """The authority in a Secret and its bundle; None for a Secret without a usable authority."""
    data = (secret or {}).get("data") or {}
    try:
        authority = Authority(base64.b64decode(data[_CERTIFICATE]), base64.b64decode(data[_KEY]))
        authority.check()
        return authority, base64.b64decode(data[_BUNDLE])
    except (KeyError, ValueError):
        return None, b""
