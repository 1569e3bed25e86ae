"""The other name of a resource whose URI two servers claim: `mcpgw://<server>/<the URI as its server has it>`.

URIs keep their value as long as they can (model/kinds.py). Where two servers list the same one, the earlier keeps it and the later one's is
listed under its alias, templates likewise. The server's name is percent-encoded, so that the first slash ends it and everything behind is
the original, byte for byte: an alias can be read back without any table, also when the clash is over.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

from mcpgw_sidecar.model.names import ServerName

SCHEME = "mcpgw://"


def write_alias(server: ServerName, uri: str) -> str:
    """The alias of a server's URI or URI template."""
    return f"{SCHEME}{quote(server, safe='')}/{uri}"


def read_alias(uri: str) -> tuple[ServerName, str] | None:
    """Server and URI that an alias stands for; None for a URI that is none."""
    if not uri.startswith(SCHEME):
        return None
    server, slash, rest = uri.removeprefix(SCHEME).partition("/")
    return (ServerName(unquote(server)), rest) if slash and rest else None
