"""The Kubernetes API over httpx2 and Trio.

Configuration and credentials come from the official client.

In a pod these are the service account's, elsewhere KUBECONFIG's, including exec plugins. A refused
token is fetched again once. We do not use the client's own requests and watches, which cannot be
cancelled while the server is silent.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import httpx2
import trio

from mcpgw_sidecar import PROGRAM, __version__
from mcpgw_sidecar.errors import ApiError, UnavailableError, words_of
from mcpgw_sidecar.protocol.headers import is_header_value
from mcpgw_sidecar.runtime import trust

CONNECT_TIMEOUT = 5.0  # seconds
TIMEOUT = 15.0  # seconds of silence in an answer: lists come in pages
_UNAUTHORIZED = 401
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_MERGE_PATCH = "application/merge-patch+json"
_JSON = "application/json"
_WORDS = 300  # characters of the API's own message that an error repeats

Raw = Mapping[str, Any]


@attrs.define
class _Access:
    configuration: Any  # kubernetes.client.Configuration
    http: httpx2.AsyncClient
    namespace: str


@attrs.define
class KubeApi:
    """The API server, with the credentials of this process or its user. Made by `opened`."""

    _access: _Access
    _renewal_lock: trio.Lock = attrs.field(factory=trio.Lock)

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls) -> AsyncIterator[KubeApi]:
        """Open the API of this pod's cluster or of KUBECONFIG.

        Raises UnavailableError when there is neither.
        """
        api = cls(await trio.to_thread.run_sync(_load, abandon_on_cancel=True))
        try:
            yield api
        finally:
            await api._access.http.aclose()

    @property
    def namespace(self) -> str:
        """The namespace that this program runs in."""
        return self._access.namespace

    async def wait_json(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, body: Raw | None = None
    ) -> dict[str, Any]:
        """One request; a PATCH is a merge patch.

        Returns an object or a list, with its `metadata`. Raises ApiError.
        """
        async with self.stream(method, path, params=params, body=body) as answer:
            document = _json_object(await answer.aread())
        if not isinstance(document.get("metadata"), dict):
            raise ApiError("what answers is not the Kubernetes API: its answer is no object of it")
        return document

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Raw | None = None,
        silence: float = TIMEOUT,
    ) -> AsyncIterator[httpx2.Response]:
        """A request whose answer the caller reads.

        `silence` is the longest pause in it, in seconds.

        Raises ApiError, also while the caller reads.
        """
        try:
            async with contextlib.AsyncExitStack() as stack:
                for attempt in (1, 2):
                    access = self._access
                    with trio.fail_after(TIMEOUT):
                        # A watch may be silent for long, but not before its response headers.
                        answer = await stack.enter_async_context(_exchange(access, method, path, params, body, silence))
                    if answer.status_code != _UNAUTHORIZED or attempt == 2:  # noqa: PLR2004  # the second and last
                        break
                    await stack.pop_all().aclose()
                    await self._wait_renewed(access)
                if not answer.is_success:
                    raise ApiError(_words(answer.status_code, await answer.aread()), status=answer.status_code)
                yield answer
        except trio.TooSlowError:
            raise ApiError(f"the Kubernetes API at {self._access.configuration.host} was silent for {TIMEOUT:g} s") from None
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            raise ApiError(
                f"the Kubernetes API at {self._access.configuration.host} did not answer: {words_of(error)}"
            ) from None

    async def _wait_renewed(self, old_access: _Access) -> None:
        """Load configuration and credentials again, once for all the requests refused with them."""
        async with self._renewal_lock:
            if self._access is old_access:
                try:
                    new_access = await trio.to_thread.run_sync(_load, abandon_on_cancel=True)
                except UnavailableError as error:
                    # The file is just being written: the next try may read it whole.
                    raise ApiError(str(error), status=_UNAUTHORIZED) from None
                if _peer(new_access.configuration) == _peer(old_access.configuration):
                    # The same server: keep its connections, and the watches on them.
                    await new_access.http.aclose()
                    new_access = attrs.evolve(new_access, http=old_access.http)
                self._access = new_access


@contextlib.asynccontextmanager
async def _exchange(
    access: _Access, method: str, path: str, params: Mapping[str, str] | None, body: Raw | None, silence: float
) -> AsyncIterator[httpx2.Response]:
    headers = {"accept": _JSON, "user-agent": f"{PROGRAM}/{__version__}"}
    try:  # in a thread: this may read a file or run a program, which may fail in any way
        token = await trio.to_thread.run_sync(
            access.configuration.get_api_key_with_prefix, "BearerToken", abandon_on_cancel=True
        )
    except Exception as error:  # noqa: BLE001
        raise ApiError(f"no credentials for the Kubernetes API: {error}", status=_UNAUTHORIZED) from None
    if token:
        if not is_header_value(token):
            raise ApiError("the token for the Kubernetes API is no line of visible ASCII", status=_UNAUTHORIZED)
        headers["authorization"] = token
    content = None
    if body is not None:
        content = json.dumps(body, separators=(",", ":"))
        headers["content-type"] = _MERGE_PATCH if method == "PATCH" else _JSON
    timeout = httpx2.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT, read=silence)
    name = access.configuration.tls_server_name
    more = {"sni_hostname": name} if name else {}
    request = access.http.stream(
        method, path, params=params, content=content, headers=headers, timeout=timeout, extensions=more
    )
    async with request as answer:
        yield answer


def _load() -> _Access:
    """Load configuration and credentials.

    To run in a thread: the import takes half a second, and plugins are programs.
    """
    from kubernetes import client, config  # noqa: PLC0415  # slow, and with a configuration file not needed

    configuration = client.Configuration()
    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST") and "KUBECONFIG" not in os.environ:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            namespace = _SERVICE_ACCOUNT.read_text(encoding="utf-8").strip()
        else:
            file = os.environ.get("KUBECONFIG")  # the client read the variable when it was imported
            config.load_kube_config(file, client_configuration=configuration)  # type: ignore[no-untyped-call]
            _, active = config.list_kube_config_contexts(file)  # type: ignore[no-untyped-call]
            namespace = (active or {}).get("context", {}).get("namespace", "default")
        return _Access(configuration, _client(configuration), namespace)
    except Exception as error:  # noqa: BLE001  # the client raises whatever its parsers raise
        where = f" (KUBECONFIG={os.environ['KUBECONFIG']})" if os.environ.get("KUBECONFIG") else ""
        msg = f"no Kubernetes API{where}: {error}; run in a pod with a service account, or name a kubeconfig with KUBECONFIG"
        raise UnavailableError(msg) from None


def _peer(configuration: Any) -> tuple[Any, ...]:  # noqa: ANN401  # kubernetes has no types
    """The settings that a connection depends on."""
    names = ("host", "ssl_ca_cert", "verify_ssl", "cert_file", "key_file", "proxy", "tls_server_name")
    return tuple(getattr(configuration, name) for name in names)


def _client(configuration: Any) -> httpx2.AsyncClient:  # noqa: ANN401  # kubernetes has no types
    context = trust.context(configuration.ssl_ca_cert)
    # Clusters live for years with an authority without key identifiers, which Python 3.13 refuses
    # by default.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not configuration.verify_ssl:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=30.0)
    return httpx2.AsyncClient(
        base_url=configuration.host, verify=context, limits=limits, trust_env=False, proxy=configuration.proxy or None
    )


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ApiError("what answers is not the Kubernetes API: its answer is no JSON object")
    return value


def _words(status: int, text: bytes) -> str:
    try:
        message = str(_json_object(text).get("message", ""))
    except ApiError:
        message = ""
    return f"HTTP {status}{': ' if message else ''}{message[:_WORDS]}"
