"""The alias of a resource whose URI two servers list: `mcpgw://<server>/<URI of the server>`.

A URI stays as it is where possible (model/kinds.py). When two servers list the same URI, the
earlier server keeps it, and the resource of the later one is listed under its alias. Templates work
likewise. A page of an MCP App becomes `ui://<server>/<the rest of its URI>`, because hosts want
that scheme. The server's name is percent-encoded, so that the first slash ends it, and the rest is
the original URI, byte for byte. So an alias can be read back without a table, also when the
conflict is over.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

from mcpgw_sidecar.catalog import apps
from mcpgw_sidecar.model.names import ServerName

SCHEME = "mcpgw://"


def write_alias(server: ServerName, uri: str) -> str:
    """The alias of a server's URI or URI template; that of a page is a page, too (MCP Apps)."""
    if uri.startswith(apps.SCHEME):
        return f"{apps.SCHEME}{quote(server, safe='')}/{uri.removeprefix(apps.SCHEME)}"
    return f"{SCHEME}{quote(server, safe='')}/{uri}"


def read_alias(uri: str) -> tuple[ServerName, str] | None:
    """Server and URI of an alias; None for a URI that is no alias.

    Any `ui://` URI reads like one: whether there is such a server says whether it is.
    """
    if uri.startswith(apps.SCHEME):
        server, slash, rest = uri.removeprefix(apps.SCHEME).partition("/")
        return (ServerName(unquote(server)), apps.SCHEME + rest) if slash and rest else None
    if not uri.startswith(SCHEME):
        return None
    server, slash, rest = uri.removeprefix(SCHEME).partition("/")
    return (ServerName(unquote(server)), rest) if slash and rest else None
