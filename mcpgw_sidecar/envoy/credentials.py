"""Credentials of servers in clients' calls: Envoy puts them in, at each attempt.

It reads them from files (SDS), so neither its configuration nor `config_dump` holds one, and a new
one counts without a new cluster. That comes after the filters that take away what a server does not
get.
"""

from __future__ import annotations

import hashlib

from mcpgw_sidecar.envoy.clusters import Resource, type_url
from mcpgw_sidecar.envoy.filters import HTTP, at_server
from mcpgw_sidecar.envoy.settings import EnvoySettings
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import ALWAYS, Server

DIRECTORY = "credentials"
_GENERIC = "envoy.extensions.http.injected_credentials.generic.v3.Generic"


def file_of(server: ServerName) -> str:
    """The file of a server's credential, below Envoy's directory."""
    return f"{DIRECTORY}/{hashlib.sha256(server.encode()).hexdigest()[:32]}.yaml"


def secret(server: ServerName, value: str) -> Resource:
    """The content of the file."""
    kind = type_url("envoy.extensions.transport_sockets.tls.v3.Secret")
    return {"resources": [{"@type": kind, "name": server, "generic_secret": {"secret": {"inline_string": value}}}]}


def filters(settings: EnvoySettings, server: Server) -> list[Resource] | None:
    """The filters of a server's cluster, if clients' calls get its credential."""
    if not server.gives_credential:
        return None
    path = f"{settings.directory}/{file_of(server.name)}"
    config = {"path_config_source": {"path": path}, "resource_api_version": "V3"}
    generic = {
        "@type": type_url(_GENERIC),
        "credential": {"name": server.name, "sds_config": config},
        "header": server.credential_header,
    }
    injector = {
        "@type": type_url(f"{HTTP}.credential_injector.v3.CredentialInjector"),
        "overwrite": server.credential_use == ALWAYS,
        "allow_request_without_credential": True,
        "credential": {"name": "envoy.http.injected_credentials.generic", "typed_config": generic},
    }
    one = {"name": "envoy.filters.http.credential_injector", "typed_config": injector}
    return at_server(settings.refused, settings.heal, one)
