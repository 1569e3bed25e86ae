"""What is to be done about a client's session: what comes out of sessions/hub.py. events.py has what goes in."""

from __future__ import annotations

import attrs

from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.sessions import Session, UpstreamSession, Wishes


@attrs.frozen
class Over:
    """The session is over: nothing that was decided for it holds, and its streams end."""

    key: str


@attrs.frozen
class Open:
    """Open a session with a server; Opened and OpeningOver answer."""

    session: Session
    server: ServerName


@attrs.frozen
class Close:
    """Close a session with a server that nobody can use any more."""

    server: ServerName
    upstream: UpstreamSession


@attrs.frozen
class Tell:
    """Tell a server what its client wishes to hear of; ServerTold answers."""

    session: Session
    server: ServerName
    upstream: UpstreamSession
    wishes: Wishes


@attrs.frozen
class Listen:
    """Hear what a server says in a session with it; Said and Silenced answer."""

    key: str
    server: ServerName
    upstream: UpstreamSession


@attrs.frozen
class Hush:
    """Hear a session with a server no longer."""

    key: str
    server: ServerName


@attrs.frozen
class Mark:
    """Let the client's stream say at once what is heard for it."""

    key: str


@attrs.frozen
class Deliver:
    """Send a message on the client's stream here."""

    key: str
    message: bytes


@attrs.frozen
class Post:
    """Leave a message for the replica that has the client's stream; NotPosted answers where that fails."""

    key: str
    message: bytes


@attrs.frozen
class Hold:
    """Keep a message until the client has a stream here."""

    key: str
    message: bytes


@attrs.frozen
class FetchMail:
    """Take the messages that replicas have left for the client; Said answers."""

    key: str


@attrs.frozen
class FetchRow:
    """Read what replicas know of a session, and its mail; Adopted, WishesRead and Shared answer."""

    session: Session
    authorization: str | None


@attrs.frozen
class ShareLevel:
    """Let replicas know a log level, and tell it to the servers of the session, wherever it is open."""

    session: Session
    level: str
    authorization: str | None


@attrs.frozen
class ShareSubscription:
    """Let replicas know a subscription."""

    session: Session
    server: ServerName
    uri: str
    wanted: bool


@attrs.frozen
class ShareEnd:
    """Let replicas know that a session is over; LeftOpen answers with what they opened besides `here`."""

    session: Session
    here: frozenset[ServerName]
    authorization: str | None


Action = (
    Over
    | Open
    | Close
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
