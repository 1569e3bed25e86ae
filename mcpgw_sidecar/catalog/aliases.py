"""The alias of a resource whose URI two servers list: `mcpgw://<server>/<URI of the server>`.

A URI stays as it is where possible (model/kinds.py). When two servers list the same URI, the
earlier server keeps it, and the resource of the later one is listed under its alias. Templates work
likewise. The server's name is percent-encoded, so that the first slash ends it, and the rest is the
original URI, byte for byte. So an alias can be read back without a table, also when the conflict is
over.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

from mcpgw_sidecar.model.names import ServerName

SCHEME = "mcpgw://"


def write_alias(server: ServerName, uri: str) -> str:
    """The alias of a server's URI or URI template."""
    return f"{SCHEME}{quote(server, safe='')}/{uri}"


def read_alias(uri: str) -> tuple[ServerName, str] | None:
    """Server and URI of an alias; None for a URI that is no alias."""
    if not uri.startswith(SCHEME):
        return None
    server, slash, rest = uri.removeprefix(SCHEME).partition("/")
    return (ServerName(unquote(server)), rest) if slash and rest else None
