"""What happens to a client's session: what goes into sessions/hub.py. actions.py has what comes out.

`key` is a session's key. "Here" is this process; a replica is another one of the same gateway.
"""

from __future__ import annotations

import attrs

from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.sessions import Session, UpstreamSession


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
    """The session that was wanted stands."""

    session: Session
    server: ServerName
    upstream: UpstreamSession


@attrs.frozen
class OpeningOver:
    """The attempt to open a session with a server is over, whatever came of it."""

    key: str
    server: ServerName


@attrs.frozen
class Adopted:
    """A replica, or a process before this one, has opened a session with a server.

    `heard`: the client was told that the server is heard for it, and expects that to go on.
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
class Forgotten:
    """A server does not know this session any more."""

    key: str
    server: ServerName
    upstream: UpstreamSession


@attrs.frozen
class Ended:
    """The client has ended its session (DELETE); `authorization` is what it showed."""

    session: Session
    authorization: str | None = None


@attrs.frozen
class EndedElsewhere:
    """The client has ended its session at a replica."""

    key: str
    expires: int


@attrs.frozen
class Due:
    """Time has passed; `now` in epoch seconds."""

    now: float


@attrs.frozen
class LevelSet:
    """The client has set its log level."""

    session: Session
    level: str
    authorization: str | None = None


@attrs.frozen
class LevelShared:
    """A log level that was set here has reached the store."""

    key: str


@attrs.frozen
class Subscribed:
    """The client subscribes to a resource of a server, or (not `wanted`) no longer."""

    session: Session
    server: ServerName
    uri: str
    wanted: bool


@attrs.frozen
class WishesRead:
    """What the client wished at a replica, as the store has it: a log level, and resources of servers."""

    session: Session
    level: str | None
    resources: tuple[tuple[ServerName, str], ...]


@attrs.frozen
class ServerTold:
    """A server has accepted a wish of the client's."""

    session: Session
    server: ServerName
    upstream: UpstreamSession


@attrs.frozen
class StreamHere:
    """The client has opened a stream here."""

    session: Session
    authorization: str | None = None


@attrs.frozen
class StreamGone:
    """A stream of the client's here is over."""

    key: str


@attrs.frozen
class Shared:
    """What replicas know of a session has been read: its sessions with servers were adopted."""

    session: Session


@attrs.frozen
class Said:
    """A server has said something for the client, outside of a call."""

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
    """A replica has changed what the store has of a session."""

    key: str


@attrs.frozen
class LeftOpen:
    """A replica had opened a session with a server for a client whose own session has ended here."""

    server: ServerName
    upstream: UpstreamSession


@attrs.frozen
class ServerGone:
    """A server has gone or lives elsewhere."""

    server: ServerName


Event = (
    Seen
    | Wanted
    | Opened
    | OpeningOver
    | Adopted
    | CallGoesOut
    | Forgotten
    | Ended
    | EndedElsewhere
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
    | LeftOpen
    | ServerGone
)
