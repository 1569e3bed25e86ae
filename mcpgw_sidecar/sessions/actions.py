"""The actions that sessions/hub.py returns for a client's session; events.py has its input."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session, UpstreamSession, Wishes


@attrs.frozen
class Over:
    """The session is over: its decisions are no longer valid, and its streams end."""

    key: str


@attrs.frozen
class Open:
    """Open a session with a server; the events Opened and OpeningOver answer."""

    session: Session
    server: ServerName


@attrs.frozen
class Close:
    """Close a session with a server that nobody can use any more."""

    server: ServerName
    upstream: UpstreamSession


@attrs.frozen
class CloseAt:
    """Close a session where a server was before it was removed, or had another URL."""

    server: Server
    upstream: UpstreamSession


@attrs.frozen
class Tell:
    """Send a client's wishes for notifications to a server; the event ServerTold answers."""

    session: Session
    server: ServerName
    upstream: UpstreamSession
    wishes: Wishes


@attrs.frozen
class Listen:
    """Listen to the stream of a session with a server; the events Said and Silenced answer.

    `resumed` says that nobody may have listened for a while: the client is told then that each of
    its resources may have changed.
    """

    key: str
    server: ServerName
    upstream: UpstreamSession
    resumed: bool = False


@attrs.frozen
class Hush:
    """Stop listening to a session with a server."""

    key: str
    server: ServerName


@attrs.frozen
class Mark:
    """Send an event at once on the client's stream, whose id has all that is heard and wished."""

    key: str


@attrs.frozen
class Deliver:
    """Send a message on the client's stream in this process."""

    key: str
    message: bytes


@attrs.frozen
class Post:
    """Leave a message for the replica with the client's stream; NotPosted answers a failure."""

    key: str
    message: bytes


@attrs.frozen
class Hold:
    """Keep a message until the client has a stream in this process."""

    key: str
    message: bytes


@attrs.frozen
class FetchMail:
    """Take the messages that replicas have left for the client; the event Said answers."""

    key: str


@attrs.frozen
class FetchRow:
    """Read the row of a session in the store, and its mail.

    The events Adopted, WishesRead and Shared answer.
    """

    session: Session


@attrs.frozen
class ShareLevel:
    """Share a log level with replicas, and set it at each server that the session is open with."""

    session: Session
    level: str


@attrs.frozen
class ShareSubscription:
    """Share a subscription with replicas."""

    session: Session
    server: ServerName
    uri: str
    wanted: bool


@attrs.frozen
class ShareEnd:
    """Share the end of a session with replicas.

    The event LeftOpen answers for each session with a server that they opened besides those closed
    `here`, by their servers and ids. `brought` is for the requests that close those.
    """

    session: Session
    here: frozenset[tuple[ServerName, str | None]]
    brought: Mapping[str, str]


Action = (
    Over
    | Open
    | Close
    | CloseAt
    | Tell
    | Listen
    | Hush
    | Mark
    | Deliver
    | Post
    | Hold
    | FetchMail
    | FetchRow
    | ShareLevel
    | ShareSubscription
    | ShareEnd
)
