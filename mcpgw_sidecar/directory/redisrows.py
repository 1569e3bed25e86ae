"""The rows of sessions in Redis: their fields, and how they are written and read."""

from __future__ import annotations

from mcpgw_sidecar.directory.redislink import RedisLink
from mcpgw_sidecar.directory.store import SharedRow, seconds_left
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.sessions import Session

TICKET, SPARE = "t:", "x:"  # with the server: fields of a row
_KEEP = """
local now = redis.call('hget', KEYS[1], ARGV[1])
if now and now ~= ARGV[3] then return now end
redis.call('hset', KEYS[1], ARGV[1], ARGV[2])
redis.call('expire', KEYS[1], ARGV[4])
return ARGV[2]
"""


async def wait_kept(link: RedisLink, session: Session, field: str, ticket: str, instead_of: str | None) -> str:
    """Offer a ticket; returns the one that counts. Raises errors of the library, as all here."""
    args = [field, ticket, instead_of or "", seconds_left(session)]
    return str(await link.redis.eval(_KEEP, keys=[row(session)], args=args))


async def wait_set(link: RedisLink, session: Session, field: str, value: str | None) -> None:
    """Set a field of a row, or with None remove it."""
    if value is None:
        await link.redis.hdel(row(session), [field])
    else:
        await link.redis.hset(row(session), {field: value})
        await link.redis.expire(row(session), seconds_left(session))


def row(session: Session) -> str:
    """The key of a session's row."""
    return f"mcpgw:s:{session.key}"


def read_row(fields: dict[str, str]) -> SharedRow:
    """What the fields of a row say; what is not ours says nothing."""
    resources: dict[ServerName, set[str]] = {}
    for field in fields:
        kind, _, rest = field.partition(":")
        if kind == "r":
            server, _, uri = rest.partition(":")
            resources.setdefault(ServerName(server), set()).add(uri)
    spares = [(field.split(":", 2), ticket) for field, ticket in fields.items() if field.startswith(SPARE)]
    tickets = {ServerName(field[2:]): ticket for field, ticket in fields.items() if field.startswith(TICKET)}
    return SharedRow(
        tickets=tickets,
        spare=tuple((ServerName(words[2]), ticket) for words, ticket in spares if len(words) == 3),  # noqa: PLR2004
        level=fields.get("l"),
        resources={name: frozenset(uris) for name, uris in resources.items()},
    )
