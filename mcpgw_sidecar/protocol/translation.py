"""Messages of the stateful era in the words of the stateless one, and their answers back.

A request gets the envelope into its `_meta`; an answer loses the members that its era does not
have. Bytes are cut and spliced, and never written anew: every value stays as its author wrote it.

A server of the stateless era asks a client in its answer (`input_required`), and gets the request
again, with what the client said. Clients of the stateful era are asked by requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from mcpgw_sidecar.model.names import JsonText
from mcpgw_sidecar.model.sessions import Session
from mcpgw_sidecar.protocol.envelope import HEADER_MISMATCH, META_SERVER, RESERVED, members_text
from mcpgw_sidecar.protocol.jsonrpc import INVALID_PARAMS, RESOURCE_NOT_FOUND, Request, Response, around_result
from mcpgw_sidecar.protocol.jsontext import JsonTextError, Member, dumps, last, only, parse_object
from mcpgw_sidecar.protocol.methods import READ

ELICIT: Final = "elicitation/create"
QUESTIONS: Final = {ELICIT: "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
"""The capability of a client that each question of a server needs."""

MAX_QUESTIONS = 20  # of one answer
RESULT_TYPE: Final = "resultType"
RESPONSES: Final = "inputResponses"
STATE: Final = "requestState"
_INPUT_REQUIRED = "input_required"
_DECLARED: tuple[str, ...] = ("experimental", "extensions")  # what clients can do that is passed on in any era
_OF_THE_ERA = frozenset({RESULT_TYPE, "ttlMs", "cacheScope"})


class UntranslatableError(ValueError):
    """The other era has no words for an answer. The message is the rest of "the server …"."""


@attrs.frozen
class Question:
    """A question of a server: its name in the answer, the method, and its params as JSON."""

    name: str
    method: str
    params: JsonText

    @property
    def url(self) -> str | None:
        """The page to which it sends the user (mode `url`); None for any other question."""
        if self.method != ELICIT:
            return None
        try:
            members = {member.key: member.value for member in parse_object(self.params)}
        except JsonTextError:  # more than MAX_MEMBERS members
            return None
        url = members.get("url") if members.get("mode") == "url" else None
        return url if isinstance(url, str) else None


@attrs.frozen
class Asked:
    """What a server wants to know before it answers, and what it wants back with that, as JSON."""

    questions: tuple[Question, ...]
    state: JsonText | None

    def answered(self, answers: Mapping[str, str]) -> str:
        """The members of params with the answers (JSON) to the questions, by their names."""
        texts = ",".join(f"{dumps(name)}:{text}" for name, text in answers.items())
        members = [f'"{RESPONSES}":{{{texts}}}'] if answers else []
        return ",".join([*members, *([f'"{STATE}":{self.state}'] if self.state is not None else [])])


def envelope_of(session: Session, level: str, capabilities: Mapping[str, object]) -> str:
    """The members of `_meta` that say who the client of a session is.

    Messages of the server's log come from `level` on.
    """
    return members_text(session.client_info, JsonText(dumps(capabilities)), level)


def capabilities_of(declared: Mapping[str, Any], *, can_ask: bool, pages: bool = False) -> dict[str, object]:
    """What a server is told that a client can do which has declared that.

    With `can_ask` it may ask the client what that declared, with `pages` also send its user to a
    page (mode `url`).
    """
    capabilities: dict[str, object] = {name: declared[name] for name in _DECLARED if name in declared}
    if can_ask:
        capabilities |= {name: declared[name] for name in ("elicitation", "sampling") if name in declared}
        capabilities |= {"roots": {}} if "roots" in declared else {}
        modes = capabilities.get("elicitation")
        if isinstance(modes, dict) and not pages:
            capabilities["elicitation"] = {name: value for name, value in modes.items() if name != "url"}
            if modes and not capabilities["elicitation"]:
                del capabilities["elicitation"]
    return capabilities


def may_ask(question: Question, capabilities: Mapping[str, object]) -> bool:
    """Whether a client has said that it can answer a question."""
    if QUESTIONS.get(question.method) not in capabilities:
        return False
    try:
        modes = [member.value for member in parse_object(question.params) if member.key == "mode"]
    except JsonTextError:  # more than MAX_MEMBERS members: the server's fault, not the client's
        return False
    declared = capabilities["elicitation"] if question.method == ELICIT else None
    may_open = isinstance(declared, dict) and "url" in declared
    return question.method != ELICIT or modes in ([], ["form"]) or (may_open and modes == ["url"])


def to_stateless(request: Request, ident: str, envelope: str, answers: str = "") -> bytes:
    """A request of a session, under an id of ours, with its envelope and answers to questions.

    Its params are not empty, since they name an item. Raises JsonTextError for two `_meta`, and for
    answers of the client's own.
    """
    params, text = request.params or [], request.text
    if any(only(params, name) is not None for name in (RESPONSES, STATE)):
        raise JsonTextError(f"{RESPONSES} and {STATE} belong to another protocol version")
    meta, end = only(params, "_meta"), params[-1].end
    edits = [(request.id_start, request.id_end, f'"{ident}"')]
    more = f",{answers}" if answers else ""
    if meta is None:
        more = f'{more},"_meta":{{{envelope}}}'
    else:
        inner = text[meta.start : meta.end]
        own = kept(inner, lambda member: not member.key.startswith(RESERVED)) if inner.startswith("{") else ""
        edits.append((meta.start, meta.end, f"{{{own}{',' if own else ''}{envelope}}}"))
    edits.append((end, end, more))
    for start, stop, piece in sorted(edits, reverse=True):
        text = text[:start] + piece + text[stop:]
    return text.encode()


def asked_in(answer: Response) -> Asked | None:
    """What a server asks in its answer; None if it asks nothing. Raises UntranslatableError."""
    members = answer.result.value if _is_object(answer) and answer.result is not None else None
    kind = last(members, RESULT_TYPE)
    if kind is None or kind.value != _INPUT_REQUIRED:
        return None
    requests, state = last(members, "inputRequests"), last(members, STATE)
    questions: list[Question] = []
    try:
        text = answer.text[requests.start : requests.end] if requests is not None else "{}"
        for each in parse_object(text):
            inner = text[each.start : each.end]
            method, params = (last(parse_object(inner), key) for key in ("method", "params"))
            if method is None or not isinstance(method.value, str):
                raise UntranslatableError("asks its user something without a method")
            asked = inner[params.start : params.end] if params is not None else "{}"
            if not asked.startswith("{") or len(questions) == MAX_QUESTIONS:
                raise UntranslatableError("asks its user something that cannot be passed on")
            questions.append(Question(each.key, method.value, JsonText(asked)))
    except JsonTextError:
        raise UntranslatableError("asks its user something that cannot be read") from None
    return Asked(tuple(questions), JsonText(answer.text[state.start : state.end]) if state is not None else None)


def is_mismatch(answer: Response) -> bool:
    """Whether a server misses a header, or finds another value in it than in the body."""
    error = answer.error.value if answer.error is not None else None
    return isinstance(error, dict) and error.get("code") == HEADER_MISMATCH


def to_stateful(answer: Response, method: str, ident: JsonText) -> bytes:
    """The answer to a request of a session. Raises UntranslatableError."""
    if answer.error is not None:
        error = _error(answer.text[answer.error.start : answer.error.end], method)
        return f'{{"jsonrpc":"2.0","id":{ident},"error":{error}}}'.encode()
    result = answer.result
    if result is None or not _is_object(answer):
        raise UntranslatableError("answered with a result that is no object")
    try:
        text = kept(answer.text[result.start : result.end], _is_known, _without_server)
    except JsonTextError as error:
        raise UntranslatableError(f"answered with {error}") from None
    prefix, suffix = around_result(ident)
    return b"".join([prefix, b"{", text.encode(), b"}", suffix])


def _is_object(answer: Response) -> bool:
    return answer.result is not None and answer.text[answer.result.start] == "{"


def _is_known(member: Member) -> bool:
    """Whether the stateful era has a member of a result.

    `structuredContent` is an object there; a server that sends another value sends it as text, too
    (SEP-2106).
    """
    return member.key not in _OF_THE_ERA and (member.key != "structuredContent" or isinstance(member.value, dict))


def _without_server(member: Member, text: str) -> str:
    """The text of a member of a result: `_meta` without the server's name, else as it is."""
    if member.key != "_meta" or not isinstance(member.value, dict) or META_SERVER not in member.value:
        return text
    return f"{{{kept(text, lambda inner: inner.key != META_SERVER)}}}"


def kept(
    text: str, is_kept: Callable[[Member], bool], value_of: Callable[[Member, str], str] = lambda _member, text: text
) -> str:
    """The inside of an object: those of its members that are kept, each as `value_of` gives it.

    Raises JsonTextError.
    """
    pieces: list[str] = []
    end = text.index("{") + 1
    for member in parse_object(text):
        before, end = text[end : member.start], member.end
        if is_kept(member):
            before = before if pieces else before.lstrip(" \t\r\n,")
            pieces.append(before + value_of(member, text[member.start : member.end]))
    return "".join(pieces)


def _error(text: str, method: str) -> str:
    """An error; that of an unknown resource has another code in the stateful era."""
    try:
        data = last(parse_object(text), "data")
    except JsonTextError:
        return text
    names_uri = data is not None and isinstance(data.value, dict) and "uri" in data.value
    return with_code(text, INVALID_PARAMS, RESOURCE_NOT_FOUND) if method == READ and names_uri else text


def with_code(text: str, code: int, other: int) -> str:
    """An error (JSON) with another code in place of this one; any other error as it is."""
    try:
        member = last(parse_object(text), "code")
    except JsonTextError:
        return text
    if member is None or member.value != code:
        return text
    return f"{text[: member.start]}{other}{text[member.end :]}"
