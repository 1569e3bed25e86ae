"""What a client may see while something is away: the rows of docs/failures.md.

A failure that no row explains fails a run.
"""

from __future__ import annotations

from typing import Final

import attrs


@attrs.frozen
class Row:
    """One fault, the failures that it explains, and until how many seconds after its end.

    A failure is the HTTP status, or for 200 the reason in the error's data, or "connection" for one
    that broke. With `of_server` only calls to that server are explained.
    """

    fault: str
    seen: tuple[str, ...]
    after: float = 0.0
    of_server: bool = False
    text: str = ""


ROWS: Final = (
    Row(
        "Envoy restarts",
        ("connection", "503"),
        2.0,
        text="Connections break, and cannot be opened until Envoy is back. Sessions go on.",
    ),
    Row(
        "the sidecar restarts (SIGTERM)",
        ("Unreachable",),
        2.0,
        of_server=True,
        text="Nothing: it finishes what was begun, and the next process gets the ports at once. "
        "If a server hangs, a first call that waits for it fails (`Unreachable`, try again).",
    ),
    Row(
        "the sidecar is killed",
        ("503", "500", "BrokenOff", "connection"),
        1.0,
        text="Requests that it was deciding or answering at that moment fail once (503, or a batch breaks off). "
        "Calls that Envoy knows, and streams of calls, go on; everything else waits for the next process, nine seconds in the mean, then gets 503.",
    ),
    Row(
        "a server restarts",
        ("Unreachable", "BrokenOff", "BadAnswer", "connection", "-32601", "-32002"),
        3.0,
        of_server=True,
        text="Calls to it fail (`Unreachable`, `BrokenOff`, `BadAnswer`), and event streams that had begun break off. Its tools stay listed for three checks, "
        "some seven seconds, then they are not found (-32601) until it is back, which is seen within a minute at the latest. Sessions with it are replaced without a failure.",
    ),
    Row(
        "a server hangs",
        ("Timeout", "Unreachable", "BrokenOff"),
        3.0,
        of_server=True,
        text="Calls to it wait, and fail after the time limits (`Timeout`, `Unreachable`, `BrokenOff`).",
    ),
    Row(
        "a server forgets its sessions",
        (),
        text="Nothing: the call goes out in a new session, once, in which the client's wishes are told anew.",
    ),
    Row(
        "a server's tools change",
        ("-32601",),
        3.0,
        of_server=True,
        text="Tools that are gone are not found (-32601). Everybody with a stream is told.",
    ),
    Row(
        "the configuration changes",
        ("-32601", "Unreachable"),
        3.0,
        of_server=True,
        text="Tools of a server that was removed are not found (-32601); calls in flight are not cut.",
    ),
    Row(
        "the session keys are rotated",
        (),
        text="Nothing, as long as the old key stands behind the new one.",
    ),
    Row(
        "the store hangs or restarts",
        (),
        3.0,
        text="Nothing: a replica opens sessions with servers of its own, and tells the store when it is back.",
    ),
)
"""In the order of docs/failures.md."""
