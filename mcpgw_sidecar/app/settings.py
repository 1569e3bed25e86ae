"""The options of `run` as one value, and the settings of the parts that follow from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from mcpgw_sidecar.directory import journalfile
from mcpgw_sidecar.envoy.settings import LISTENER_PORT, MAX_BODY, Endpoint, EnvoySettings
from mcpgw_sidecar.envoyfiles.scripts import messages, script
from mcpgw_sidecar.envoyfiles.stamps import FILE, Brief, StampFile
from mcpgw_sidecar.inbound.guard import AUTO, LOOPBACK, Guard, host_name
from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.model.hosts import EVERYWHERE
from mcpgw_sidecar.model.servers import Desired
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.resources.objects import Ref
from mcpgw_sidecar.runtime.listeners import Address
from mcpgw_sidecar.runtime.trust import system_bundle

log = get_logger(__name__)

ADMIN = "admin.sock"  # Envoy's admin endpoint, in --envoy-dir


@attrs.frozen(kw_only=True)
class Settings:
    """The options of `run`. Times are in seconds, sizes in bytes.

    Without `config` the servers are MCPServers in Kubernetes. `namespace` is that of the objects
    that sidecars share in Kubernetes; None for the namespace of the sidecar.
    """

    config: Path | Ref | None = None
    namespace: str | None = None
    access: Path | Ref | None = None
    envoy_dir: Path | None = None
    gateway_address: Address = Address("0.0.0.0", LISTENER_PORT)  # noqa: S104  # the gateway is there to be reached
    gateway_tls_cert: Path | None = None
    gateway_tls_key: Path | None = None
    envoy_admin_address: Address | None = None
    broker_address: Address | None = None
    router_address: Address | None = None
    admin_address: Address = Address("127.0.0.1", 9090)
    admin_hosts: tuple[str, ...] = ()
    admin_token_file: Path | None = None
    public_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    external_names: tuple[str, ...] = ()
    secrets_in: tuple[str, ...] = ()
    token_urls: tuple[str, ...] = ()
    through: Address | None = None
    session_key_file: Path | None = None
    session_store: str | None = attrs.field(default=None, repr=False)
    session_lifetime: float = 86400.0
    max_body: int = MAX_BODY
    envoy_heap: int | None = None
    trusted_hops: int = 0
    log_collector: str | None = None
    call_timeout: float = 300.0
    discovery_timeout: float = timeouts.REQUEST
    refresh_interval: float = 60.0
    drain_time: float = 25.0
    debug: bool = False
    route_memo: bool = True
    batches: bool = True
    prefer_era: str = AUTO

    @property
    def envoy_admin(self) -> Address:
        """Envoy's admin endpoint: a socket beside its files, if nothing else is wanted."""
        return self.envoy_admin_address or Address(path=str((self.envoy_dir or Path()).resolve() / ADMIN))

    @property
    def broker(self) -> Address:
        """Where the broker listens: a socket beside Envoy's files, whose directory says who may."""
        return self.broker_address or self._beside("broker.sock", 8080)

    @property
    def router(self) -> Address:
        """Where the router listens, likewise."""
        return self.router_address or self._beside("router.sock", 50051)

    @property
    def inner(self) -> Address | None:
        """Where Envoy takes the messages of batches from the broker; None where there are none."""
        return self._socket("inner.sock") if self.batches else None

    def _beside(self, name: str, port: int) -> Address:
        return self._socket(name) or Address("127.0.0.1", port)

    def _socket(self, name: str) -> Address | None:
        """A socket in Envoy's directory; None without the directory, or if its name is too long."""
        beside = None if self.envoy_dir is None else Address(path=str(self.envoy_dir.resolve() / name))
        return beside if beside is not None and beside.fits else None

    @property
    def remembers(self) -> bool:
        """Whether Envoy may repeat decisions; at LOG_LEVEL debug the router logs every request."""
        return self.route_memo and not self.debug


def guard(settings: Settings) -> Guard:
    """The allowed hosts and origins."""
    public_hosts = {host_name(host) if not host.startswith("*") else host for host in settings.public_hosts}
    own_hosts = {settings.gateway_address.host} - EVERYWHERE
    return Guard(
        hosts=frozenset(LOOPBACK | public_hosts | own_hosts),
        origins=frozenset(settings.allowed_origins),
        batches=settings.inner is not None,
        prefer_era=settings.prefer_era,
    )


def envoy_settings(settings: Settings, broker: Address, router: Address, secret: str = "") -> EnvoySettings:
    """The settings that Envoy's resources depend on. `secret` is for its own questions."""
    directory = (settings.envoy_dir or Path()).resolve()
    return EnvoySettings(
        directory=str(directory),
        gateway=_endpoint(settings.gateway_address),
        admin=_endpoint(settings.envoy_admin),
        broker=_endpoint(broker),
        router=_endpoint(router),
        inner=_endpoint(settings.inner) if settings.inner is not None else None,
        max_body=settings.max_body,
        call_timeout=settings.call_timeout,
        discovery_timeout=settings.discovery_timeout,
        refused=script("refused"),
        heal=script("heal", request=settings.discovery_timeout, secret=secret),
        messages=messages(str(directory / FILE) if settings.remembers else None, secret=secret),
        tls_cert=str(settings.gateway_tls_cert.resolve()) if settings.gateway_tls_cert else None,
        tls_key=str(settings.gateway_tls_key.resolve()) if settings.gateway_tls_key else None,
        ca_bundle=system_bundle(),
        allowed_origins=settings.allowed_origins,
        debug=settings.debug,
        memo=settings.remembers,
        heap=settings.envoy_heap,
        trusted_hops=settings.trusted_hops,
        log_collector=settings.log_collector,
        secret=secret,
    )


def warn_of_login(settings: Settings, desired: Desired) -> None:
    """Say so, once, where everybody of a network may call everything, or nobody anything."""
    access, login = desired.access, desired.access.authentication
    for key, url in _plain_urls(desired):
        log.warning("Whoever is on the way can change what comes from there: use https", key=key, url=url)
    if settings.envoy_dir is None and login is not None and not login.by_istio:
        log.warning("Every request is refused: without --envoy-dir only Istio can verify tokens (verifiedBy: istio)")
    if settings.envoy_dir is not None and login is not None and login.by_istio:
        log.warning(
            "Every request is refused: verifiedBy: istio, and this Envoy is the sidecar's own: name the issuers' keys"
        )
    if access.rules is not None and access.authentication is None and not any(() in rule.allow for rule in access.rules):
        log.warning("No tool is anybody's: authorization has rules, and without authentication nobody has claims")
    if settings.envoy_dir is not None and access.authentication is None and settings.gateway_address.host not in LOOPBACK:
        log.warning(
            "The gateway is open to the network and asks nobody who they are: "
            "configure authentication, bind loopback, or put a proxy that asks in front",
            address=str(settings.gateway_address),
            tls=settings.gateway_tls_cert is not None,
        )


def _plain_urls(desired: Desired) -> Iterator[tuple[str, str]]:
    """The URLs of keys and tokens that leave the machine without TLS, each with its key."""
    login = desired.access.authentication
    urls = [("jwksUri", issuer.jwks_uri) for issuer in login.issuers] if login is not None else []
    exchanges = [server.token_exchange for server in desired.enabled if server.token_exchange is not None]
    urls += [("tokenUrl", each.token_url) for exchange in exchanges for each in (exchange.client, exchange.grant) if each]
    for key, url in urls:
        parts = urlsplit(url or "")
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            yield key, str(url)


def stamps_of(settings: Settings) -> StampFile | Brief | None:
    """How long Envoy may repeat decisions; None if it may not."""
    if not settings.remembers:
        return None
    return Brief() if settings.envoy_dir is None else StampFile(settings.envoy_dir / FILE)


def key_file(settings: Settings) -> Path | None:
    """The file with the session keys; None if they are only in the memory of the process."""
    if settings.session_key_file is not None:
        return settings.session_key_file
    if settings.envoy_dir is not None:
        return settings.envoy_dir / "session.key"
    log.warning("Sessions end with this process: give --envoy-dir or --session-key-file to keep them over a restart")
    return None


def journal_file(settings: Settings) -> Path | None:
    """The file that keeps sessions for the next process; None without a directory for it."""
    if settings.envoy_dir is not None:
        return settings.envoy_dir / journalfile.NAME
    return settings.session_key_file.with_name(journalfile.NAME) if settings.session_key_file is not None else None


def _endpoint(address: Address) -> Endpoint:
    path = str(Path(address.path).resolve()) if address.path is not None else None  # Envoy may run elsewhere
    return Endpoint(host=address.host, port=address.port, path=path)
