"""The notifications of clients that servers get, rebuilt from the members that the protocol has.

Anything else would be a tunnel past whoever looks at requests: `tools/call` without an id, say, or
a member in another case, which some servers run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mcpgw_sidecar.protocol.jsonrpc import Notification, notification_text
from mcpgw_sidecar.protocol.jsontext import dumps, last, only
from mcpgw_sidecar.protocol.methods import CANCELLED, PROGRESS

MAX_ID: Final = 512  # characters of a request's id
RELAYED: Final[Mapping[str, tuple[str, ...]]] = {
    CANCELLED: ("requestId", "reason", "_meta"),
    PROGRESS: ("progressToken", "progress", "total", "message", "_meta"),
    "notifications/roots/list_changed": ("_meta",),
}
"""The members of `params` of each (schema, ClientNotification)."""


def cancellation(notification: Notification) -> bytes | None:
    """A cancellation with the id of its request alone; None for one without, or with a long one."""
    named = last(notification.params, "requestId")
    text = notification.text[named.start : named.end] if named is not None else ""
    return notification_text(CANCELLED, f'{{"requestId":{text}}}') if 0 < len(text) <= MAX_ID else None


def rebuilt(notification: Notification, replaced: Mapping[str, str] | None = None) -> bytes | None:
    """A client's notification for servers, None if it is not relayed.

    `replaced` has other values (JSON) for members. Raises JsonTextError for a member that is there
    twice, or in another case.
    """
    keys = RELAYED.get(notification.method)
    if keys is None:
        return None
    texts: list[str] = []
    for key in keys:
        member = only(notification.params or [], key)
        if member is not None:
            text = (replaced or {}).get(key) or notification.text[member.start : member.end]
            texts.append(f"{dumps(key)}:{text}")
    return notification_text(notification.method, f"{{{','.join(texts)}}}" if notification.params is not None else None)
