"""The events of a client's session, for sessions/hub.py; actions.py has the output.

`key` is a session's key. "Here" is this process; a replica is another one of the same gateway.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import AllWishes, Session, UpstreamSession


@attrs.frozen
class Seen:
    """A request came with the id of this session."""

    session: Session


@attrs.frozen
class Wanted:
    """A call needs a session with a server."""

    session: Session
    server: ServerName


@attrs.frozen
class Opened:
    """The session with a server that was requested is open."""

    session: Session
    server: ServerName
    upstream: UpstreamSession


@attrs.frozen
class OpeningOver:
    """The attempt to open a session with a server is over, with or without success."""

    key: str
    server: ServerName


@attrs.frozen
class Adopted:
    """A replica, or a process before this one, has opened a session with a server.

    `heard` says that the id of an event has told the client that the gateway listens to the server;
    the client expects that to go on.
    """

    session: Session
    server: ServerName
    upstream: UpstreamSession
    heard: bool = False


@attrs.frozen
class CallGoesOut:
    """A call is about to be sent to a server."""

    session: Session
    server: ServerName


@attrs.frozen
class LinkFound:
    """A server knows a URI that no list has."""

    key: str
    uri: str
    server: ServerName


@attrs.frozen
class Brought:
    """The client's request has these headers that servers want."""

    key: str
    brought: Mapping[str, str]


@attrs.frozen
class Forgotten:
    """A server does not know this session any more."""

    key: str
    server: ServerName
    upstream: UpstreamSession


@attrs.frozen
class Ended:
    """The client has ended its session (DELETE)."""

    session: Session


@attrs.frozen
class EndedElsewhere:
    """The client has ended its session at a replica."""

    key: str
    expires: int


@attrs.frozen
class EndedBefore:
    """The client had ended its session before this process started."""

    key: str
    expires: int


@attrs.frozen
class Due:
    """Time has passed; `now` is in epoch seconds."""

    now: float


@attrs.frozen
class LevelSet:
    """The client has set its log level."""

    session: Session
    level: str


@attrs.frozen
class LevelShared:
    """A log level that was set here has reached the store."""

    key: str


@attrs.frozen
class Subscribed:
    """The client subscribes to a resource of a server; without `wanted` it unsubscribes."""

    session: Session
    server: ServerName
    uri: str
    wanted: bool


@attrs.frozen
class WishesRead:
    """The client had wishes in another process: a log level, and resources of servers.

    `old` says that the id of an event has them, which may be older than what is known here.
    """

    session: Session
    wishes: AllWishes
    old: bool = False


@attrs.frozen
class ServerTold:
    """A server has accepted a wish of the client's."""

    session: Session
    server: ServerName
    upstream: UpstreamSession


@attrs.frozen
class StreamHere:
    """The client has opened a stream in this process."""

    session: Session


@attrs.frozen
class StreamGone:
    """A stream of the client in this process is over."""

    key: str


@attrs.frozen
class Shared:
    """The row of a session in the store was read, and its sessions with servers were adopted."""

    session: Session


@attrs.frozen
class Said:
    """A server has sent a message for the client, outside of a call."""

    key: str
    message: bytes


@attrs.frozen
class NotPosted:
    """A message could not be left for a replica."""

    key: str
    message: bytes


@attrs.frozen
class Silenced:
    """The stream of a session with a server is over for good."""

    key: str
    server: ServerName
    upstream: UpstreamSession


@attrs.frozen
class MailWaits:
    """A replica has left messages for the client."""

    key: str


@attrs.frozen
class RowChanged:
    """A replica has changed the row of a session in the store."""

    key: str


@attrs.frozen
class ReplicaGone:
    """A replica has ended, so nobody hears the servers that it heard; or its news were missed."""


@attrs.frozen
class LeftOpen:
    """A replica had opened a session with a server, and the client's session has ended here."""

    server: ServerName
    upstream: UpstreamSession


@attrs.frozen
class ServerGone:
    """A server was removed or has another URL; `server` is how it was."""

    server: Server


Event = (
    Seen
    | Wanted
    | Opened
    | OpeningOver
    | Adopted
    | CallGoesOut
    | LinkFound
    | Brought
    | Forgotten
    | Ended
    | EndedElsewhere
    | EndedBefore
    | Due
    | LevelSet
    | LevelShared
    | Subscribed
    | WishesRead
    | ServerTold
    | StreamHere
    | StreamGone
    | Shared
    | Said
    | NotPosted
    | Silenced
    | MailWaits
    | RowChanged
    | ReplicaGone
    | LeftOpen
    | ServerGone
)
