"""Pages to which a server without sessions sends the user of a client with one (mode `url`).

The client says at once that its user goes there; what happens on the page only the server knows. So
it gets the call again, with the same answer, until it is content, and the client hears of the end
(client/elicitation, 2025-11-25: `elicitationId`, and a notification).
"""

from __future__ import annotations

import json
from typing import Final

import attrs
import trio

from mcpgw_sidecar.front.room import PATIENCE
from mcpgw_sidecar.protocol.jsontext import dumps
from mcpgw_sidecar.protocol.translation import Asked, Question, UntranslatableError

_COMPLETE: Final = "notifications/elicitation/complete"
_PAUSE, _LONGEST = 0.5, 5.0  # seconds before a call is sent again, doubled with each time


@attrs.define
class Pages:
    """The pages of one call, by their URLs: the ids of the questions, and the client's answers."""

    _open: dict[str, tuple[str, str]] = attrs.field(factory=dict, init=False)
    _turns: int = attrs.field(default=0, init=False)
    _since: float = attrs.field(factory=trio.current_time, init=False)

    def params(self, question: Question, ident: str) -> str:
        """The params of a question to the client, as JSON."""
        return question.params if question.url is None else f'{{"elicitationId":"{ident}",{question.params[1:]}'

    def answered(self, question: Question, ident: str, answer: str) -> None:
        """Note that the user goes to a page."""
        said = json.loads(answer)
        if question.url is not None and isinstance(said, dict) and said.get("action") == "accept":
            self._open[question.url] = ident, answer
            self._turns, self._since = 0, trio.current_time()

    async def wait_again(self, asked: Asked) -> dict[str, str] | None:
        """The same answers once more, after a while; None if the client has to be asked.

        Raises UntranslatableError when the user takes too long.
        """
        pages = [(question.name, self._open.get(question.url or "")) for question in asked.questions]
        if not pages or any(page is None for _, page in pages):
            return None
        if trio.current_time() > self._since + PATIENCE:
            raise UntranslatableError("still waits for what its user does on a page")
        await trio.sleep(min(_LONGEST, _PAUSE * 2.0**self._turns))
        self._turns += 1
        return {name: page[1] for name, page in pages if page is not None}

    def completed(self) -> list[str]:
        """What the client hears when the server is content."""
        messages = [
            f'{{"jsonrpc":"2.0","method":"{_COMPLETE}","params":{dumps({"elicitationId": ident})}}}'
            for ident, _ in self._open.values()
        ]
        self._open.clear()
        return messages
