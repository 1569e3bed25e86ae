"""The calls that this process carries for clients with sessions, and what their clients may say.

A client's cancellation, or its answer to a question of the server, may come to any replica.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import attrs
import trio

from mcpgw_sidecar.protocol.jsonrpc import Notification, Response, parse_message
from mcpgw_sidecar.protocol.jsontext import last
from mcpgw_sidecar.sessions.rows import one_less


@attrs.define(eq=False)
class CarriedCalls:
    """The calls, by the keys of their sessions and their ids, and the questions that wait."""

    _running: dict[tuple[str, str], trio.CancelScope] = attrs.field(factory=dict, init=False)
    _asking: dict[tuple[str, str], trio.MemorySendChannel[Response]] = attrs.field(factory=dict, init=False)
    _of: Counter[str] = attrs.field(factory=Counter, init=False)

    def sessions(self) -> list[str]:
        """The keys of the sessions whose calls are carried here."""
        return list(self._of)

    def has_any(self, session_key: str) -> bool:
        """Whether a call of a session is carried here."""
        return session_key in self._of

    def take(self, session_key: str, text: bytes) -> bool:
        """Take what a client has said to a call; False if that is not carried here."""
        match parse_message(text):
            case Notification() as notification:
                return self.cancelled(session_key, notification)
            case Response() as answer:
                return self.answered(session_key, answer)
            case _:
                return False

    @contextlib.contextmanager
    def cancellable(self, session_key: str, ident: object) -> Iterator[None]:
        """Run a call, the block, until it is over or cancelled; `ident` is the value of its id."""
        key = (session_key, repr(ident))
        self._of[session_key] += 1
        try:
            with trio.CancelScope() as scope:
                self._running[key] = scope
                try:
                    yield
                finally:
                    if self._running.get(key) is scope:  # a client may use an id twice
                        del self._running[key]
        finally:
            one_less(self._of, session_key)

    @contextlib.contextmanager
    def waiting(self, session_key: str, ident: str) -> Iterator[trio.MemoryReceiveChannel[Response]]:
        """Wait, in the block, for the client's answer to the question with this id."""
        out, answers = trio.open_memory_channel[Response](1)
        self._asking[session_key, ident] = out
        try:
            yield answers
        finally:
            self._asking.pop((session_key, ident), None)

    def cancelled(self, session_key: str, notification: Notification) -> bool:
        """Cancel the call that a client's notification names; False if it is not carried here."""
        named = last(notification.params, "requestId")
        scope = self._running.get((session_key, repr(named.value))) if named is not None else None
        if scope is not None:
            scope.cancel()
        return scope is not None

    def answered(self, session_key: str, answer: Response) -> bool:
        """Take a client's answer to a question; False if nobody waits for it here."""
        waiting = self._asking.pop((session_key, str(answer.id_value)), None)
        if waiting is not None:
            waiting.send_nowait(answer)
        return waiting is not None
