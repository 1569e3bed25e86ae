"""The options of `run` and their groups: flag, environment variable, default and help."""

from __future__ import annotations

from pathlib import Path

import click

from mcpgw_sidecar.cli.declaring import option, setting, stack, switch
from mcpgw_sidecar.cli.types import (
    ADDRESS,
    BODY_SIZE,
    COLLECTOR,
    CONFIG,
    CONFIG_MAP,
    DURATION,
    HEAP,
    HOST,
    IMAGE,
    INTERVAL,
    LIMIT,
    LISTENER,
    NAMESPACE as NAMESPACE_NAME,
    NAMESPACE_OR_ALL,
    ORIGIN,
    TOKEN_URL,
    UNIX_OR_ADDRESS,
)
from mcpgw_sidecar.demo import GUIDE_HOST
from mcpgw_sidecar.inbound.guard import AUTO, ERAS
from mcpgw_sidecar.manifests.container import NAMESPACE, Sidecar
from mcpgw_sidecar.observability.logs import LEVELS

_FILE = click.Path(path_type=Path, dir_okay=False)
# Only Envoy reads such a file, and it may run as another user.
_ENVOYS_FILE = click.Path(path_type=Path, dir_okay=False, readable=False)


log_options = stack(
    [
        option(
            "--log-level",
            default="info",
            envvar=["MCPGW_LOG_LEVEL", "LOG_LEVEL"],
            type=click.Choice(list(LEVELS), case_sensitive=False),
            help="Least level that is logged. debug shows every routing step.",
        ),
        option("--log-format", default="text", type=click.Choice(["text", "json"]), help="How a line looks."),
    ]
)

gateway_option = setting("--gateway-address", "gateway_address", type=ADDRESS, help="What the written Envoy listener binds.")
envoy_admin_option = option(
    "--envoy-admin-address",
    type=UNIX_OR_ADDRESS,
    help="Envoy's admin endpoint, in the bootstrap and for its verdict; by default admin.sock in --envoy-dir.",
)
broker_option = option(
    "--broker-address",
    type=UNIX_OR_ADDRESS,
    help="Where the broker listens (HTTP); by default broker.sock in --envoy-dir, without it 127.0.0.1:8080.",
)
router_option = option(
    "--router-address",
    type=UNIX_OR_ADDRESS,
    help="Where the router listens (gRPC); by default router.sock in --envoy-dir, without it 127.0.0.1:50051.",
)
admin_token_option = option(
    "--admin-token-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Bearer token with which /status is read from other machines; read again when it changes.  [default: not at all]",
)
admin_option = setting(
    "--admin-address", "admin_address", type=ADDRESS, help="Where /healthz, /readyz, /status and /metrics are served."
)
envoy_dir_option = option(
    "--envoy-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write Envoy's bootstrap and dynamic resources there, and keep them up to date.",
)

external_names_option = option(
    "--allow-external-names",
    "external_names",
    multiple=True,
    help="Name, or suffix, that a Service of type ExternalName may stand for; * for all. Repeatable.  [default: none]",
)
token_urls_option = option(
    "--allow-token-urls",
    "token_urls",
    multiple=True,
    type=TOKEN_URL,
    help="tokenUrl that an MCPServer may name, or all below one that ends in /: it gets callers' tokens. Repeatable.  [default: none]",
)
through_option = option(
    "--through-gateway",
    "through",
    type=LISTENER,
    help="In Istio: a listener of the gateway beside it, by which the sidecar's own requests go to MCP servers, as calls do: "
    "for meshes with strict mutual TLS, and routes with several backends. It speaks HTTP.  [default: not so]",
)
secrets_option = option(
    "--secrets-in",
    "secrets_in",
    multiple=True,
    type=NAMESPACE_OR_ALL,
    help="Namespace whose labelled Secrets MCPServers may name as their credentials; * for all. Repeatable.  [default: none]",
)

shared_options = stack(
    [
        gateway_option,
        envoy_admin_option,
        broker_option,
        router_option,
        admin_option,
        option(
            "--admin-host",
            "admin_hosts",
            multiple=True,
            type=HOST,
            envvar="MCPGW_ADMIN_HOST",
            help="Host name that the admin port answers, besides localhost and addresses. Repeatable.",
        ),
        option(
            "--public-host",
            "public_hosts",
            multiple=True,
            type=HOST,
            envvar="MCPGW_PUBLIC_HOST",
            help="Host name that clients may use, besides loopback names and the gateway address; *.x for all below x. Repeatable.",
        ),
        option(
            "--allowed-origin",
            "allowed_origins",
            multiple=True,
            type=ORIGIN,
            envvar="MCPGW_ALLOWED_ORIGIN",
            help="Origin whose pages may call, besides those of the same host. Repeatable.",
        ),
        setting("--session-lifetime", "session_lifetime", type=INTERVAL, help="How long a client's session lives."),
        setting("--max-body", "max_body", type=BODY_SIZE, help="Largest request of a client; above it 413."),
        option(
            "--envoy-heap",
            type=HEAP,
            help="Memory that Envoy may take (in its bootstrap): near it Envoy refuses requests instead of being ended.  [default: no limit; in pods 90 % of its container's]",
        ),
        setting("--call-timeout", "call_timeout", type=LIMIT, help="Longest silence of a server during a call; 0 is none."),
        setting(
            "--discovery-timeout",
            "discovery_timeout",
            type=INTERVAL,
            help="Of one request while a server is discovered, or a session with it is opened.",
        ),
        setting("--refresh-interval", "refresh_interval", type=INTERVAL, help="Between two checks of each server."),
        option(
            "--prefer-era",
            type=click.Choice(ERAS),
            default=AUTO,
            help="Where clients are led that speak 2026-07-28 and sessions. auto: where more servers are called without translation; "
            "stateless: 2026-07-28; stateful: sessions, and 2026-07-28 is refused.",
        ),
    ]
)

sidecar_options = stack(
    [
        option("--image", default=Sidecar().image, type=IMAGE, help="The sidecar's image."),
        option(
            "--namespace",
            default=NAMESPACE,
            type=NAMESPACE_NAME,
            help="Where the sidecars keep ConfigMap, Lease and session keys.",
        ),
        option(
            "--public-host",
            "public_hosts",
            multiple=True,
            default=(GUIDE_HOST,),
            show_default=True,
            type=HOST,
            envvar="MCPGW_PUBLIC_HOST",
            help="Host name that clients of the gateway use. Repeatable.",
        ),
        external_names_option,
        secrets_option,
        token_urls_option,
        through_option,
        option("--access", type=CONFIG_MAP, help="Login and rules: a ConfigMap with the key access.yaml.  [default: none]"),
        option("--envoy-container", help="Name of Envoy's container.  [default: istio-proxy, else envoy]"),
        setting("--max-body", "max_body", type=BODY_SIZE, help="Largest request of a client; above it 413."),
    ]
)

run_options = stack(
    [
        option(
            "--config",
            type=CONFIG,
            help="The configuration: a file, or configmap:NAMESPACE/NAME; followed while it changes.",
        ),
        option("--kubernetes", is_flag=True, help="The configuration is MCPServer resources; instead of --config."),
        option(
            "--access",
            type=CONFIG,
            help="Login, rules and limits, if they do not stand in the file of --config: a file, or configmap:NAMESPACE/NAME.",
        ),
        option(
            "--namespace",
            type=NAMESPACE_NAME,
            help="Where sidecars keep ConfigMap, Lease and session keys in Kubernetes.  [default: their own namespace]",
        ),
        external_names_option,
        secrets_option,
        token_urls_option,
        through_option,
        envoy_dir_option,
        shared_options,
        option(
            "--trusted-hops",
            type=click.IntRange(0, 10),
            default=0,
            help="Load balancers and proxies in front that add the client's address to X-Forwarded-For, for limits and log.",
        ),
        option(
            "--log-collector",
            type=COLLECTOR,
            help="Where Envoy also sends the line of each request: OpenTelemetry's OTLP over gRPC.  [default: nowhere]",
        ),
        option("--gateway-tls-cert", type=_ENVOYS_FILE, help="PEM certificate chain: the Envoy listener speaks HTTPS."),
        option("--gateway-tls-key", type=_ENVOYS_FILE, help="PEM private key of --gateway-tls-cert."),
        option(
            "--session-key-file",
            type=_FILE,
            help="Keys of the session ids, one a line; made if missing.  [default: session.key in --envoy-dir]",
        ),
        option(
            "--session-store",
            help="redis://… or valkey://… (with TLS rediss://, valkeys://): sessions are shared by replicas.  [default: in memory]",
        ),
        switch(
            "--batches",
            "split",
            "refuse",
            "JSON-RPC batches of 2025-03-26 clients: each message goes through Envoy as if it had come alone, or -32600.",
        ),
        switch(
            "--route-memo",
            "on",
            "off",
            "Envoy repeats decisions of the router; off, and log level debug: every request goes to the router.",
        ),
        admin_token_option,
        setting("--drain-time", "drain_time", type=DURATION, help="For requests in flight at SIGTERM."),
        log_options,
    ]
)
