"""Messages of the stateless era in the words of the stateful one, and their answers back.

A request loses the envelope, and gets an id and a token for progress that are the gateway's own:
several clients may use one session. An answer gets the members that its era has besides. Bytes are
cut and spliced, and never written anew, as in translation.py, which is the other direction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import attrs

from mcpgw_sidecar import PROGRAM, __version__
from mcpgw_sidecar.model.names import JsonText
from mcpgw_sidecar.protocol.envelope import META_CAPABILITIES, META_CLIENT, META_LEVEL, META_SERVER, RESERVED
from mcpgw_sidecar.protocol.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    RESOURCE_NOT_FOUND,
    Notification,
    Request,
    Response,
    around_result,
    parse_message,
)
from mcpgw_sidecar.protocol.jsontext import JsonTextError, Member, dumps, last, only, parse_array, parse_object
from mcpgw_sidecar.protocol.methods import LEVELS, MESSAGE, PROGRESS, READ
from mcpgw_sidecar.protocol.translation import (
    ELICIT,
    QUESTIONS,
    RESPONSES,
    RESULT_TYPE,
    STATE,
    Question,
    UntranslatableError,
    kept,
    with_code,
)

_UNKNOWN: Final = JsonText('{"name":"unknown","version":"unknown"}')
URL_REQUIRED: Final = -32042
MAX_PAGES: Final = 20  # of one call
MAX_WORDS: Final = 2048  # characters of a client's name, and of its capabilities
_PROGRESS_ID = "progressToken"
_BARE = frozenset(QUESTIONS.values())
_OF_SESSIONS = frozenset({"_meta", "task", "elicitationId"})


@attrs.frozen
class Sender:
    """Who sends a request, by its envelope: the name of the client, as JSON, and its capabilities.

    `level` is from where on it wants messages of the server's log, None for none; `token` is the
    JSON of its token for progress. With `state` it comes back with `answers`, as JSON, to the
    questions of these names.
    """

    info: JsonText
    capabilities: Mapping[str, Any]
    level: str | None
    token: JsonText | None
    state: str | None
    answers: Mapping[str, str]


def sender_of(request: Request) -> Sender:
    """Who sends a request that has passed the ladder. Raises JsonTextError.

    What is too long is left out of a name and of capabilities: both are kept for a while.
    """
    params = request.params or []
    meta, members = only(params, "_meta"), []
    inner = ""
    if meta is not None and isinstance(meta.value, dict):
        inner = request.text[meta.start : meta.end]
        members = parse_object(inner)
    info, level, token = (last(members, name) for name in (META_CLIENT, META_LEVEL, _PROGRESS_ID))
    capabilities = last(members, META_CAPABILITIES)
    declared = capabilities.value if capabilities is not None and isinstance(capabilities.value, dict) else {}
    return Sender(
        info=_text(inner, info) if info is not None and isinstance(info.value, dict) and _fits(info) else _UNKNOWN,
        capabilities=declared
        if capabilities is None or _fits(capabilities)
        else {key: {} for key in _BARE & declared.keys()},
        level=level.value if level is not None else None,
        token=_text(inner, token) if token is not None and isinstance(token.value, str | float) else None,
        state=_state(only(params, STATE)),
        answers=_answers(request.text, only(params, RESPONSES)),
    )


def _fits(member: Member) -> bool:
    return member.end - member.start <= MAX_WORDS


def digest_of(request: Request) -> str:
    """What makes a request the same when it comes again with answers: all but these and `_meta`."""
    members = [member for member in request.params or [] if member.key not in {RESPONSES, STATE, "_meta"}]
    texts = sorted(f"{dumps(member.key)}:{_text(request.text, member)}" for member in members)
    return hashlib.sha256("\n".join([request.method, *texts]).encode()).hexdigest()


def input_required(questions: Mapping[str, Request], state: JsonText) -> str:
    """The result that asks a client, as JSON; the questions are a server's requests, by name."""
    texts = (f"{dumps(name)}:{_question(question)}" for name, question in questions.items())
    named = f'"_meta":{{{_server()}}}'
    return f'{{"{RESULT_TYPE}":"input_required","inputRequests":{{{",".join(texts)}}},"{STATE}":{state},{named}}}'


def question_of(request: Request) -> Question:
    """A server's request, as a question to a client."""
    members = ",".join(f"{dumps(each.key)}:{_text(request.text, each)}" for each in request.params or [])
    return Question("", request.method, JsonText(f"{{{members}}}"))


def pages_of(answer: Response) -> dict[str, Request]:
    """The pages that a user has to open before a server begins a call, as questions by name.

    In sessions that is an error with URL_REQUIRED, after which the call is sent again (2025-11-25).
    """
    if answer.error is None:
        return {}
    try:
        error = _text(answer.text, answer.error)
        members = parse_object(error)
        code, data = last(members, "code"), last(members, "data")
        if code is None or code.value != URL_REQUIRED or data is None:
            return {}
        inner = _text(error, data)
        listed = last(parse_object(inner), "elicitations")
        texts = parse_array(_text(inner, listed))[:MAX_PAGES] if listed is not None else []
        found = [parse_message(f'{{"jsonrpc":"2.0","id":0,"method":"{ELICIT}","params":{text}}}') for text in texts]
    except JsonTextError:
        return {}
    return {f"url{number}": each for number, each in enumerate(found, 1) if isinstance(each, Request)}


def is_accepted(answer: str | None) -> bool:
    """Whether a client's answer to a question (JSON) says that its user agrees."""
    action = only(parse_object(answer), "action") if answer is not None and answer.startswith("{") else None
    return action is not None and action.value == "accept"


def _question(question: Request) -> str:
    """A question without what only a session has."""
    members = [member for member in question.params or [] if member.key not in _OF_SESSIONS]
    params = ",".join(f"{dumps(member.key)}:{_text(question.text, member)}" for member in members)
    return f'{{"method":{dumps(question.method)},"params":{{{params}}}}}'


def _state(member: Member | None) -> str | None:
    if member is None:
        return None
    return member.value if isinstance(member.value, str) else ""  # which is no state of ours


def _answers(text: str, member: Member | None) -> dict[str, str]:
    if member is None or not isinstance(member.value, dict):
        return {}
    inner = _text(text, member)
    return {each.key: _text(inner, each) for each in parse_object(inner)}


def to_session(request: Request, ident: str, token: str) -> bytes:
    """A request for a session, under an id and a token of ours. Raises JsonTextError."""
    text, meta = request.text, only(request.params or [], "_meta")
    edits = [(request.id_start, request.id_end, dumps(ident))]
    if meta is not None and text[meta.start] == "{":

        def value_of(member: Member, raw: str) -> str:
            return dumps(token) if member.key == _PROGRESS_ID else raw

        inner = kept(text[meta.start : meta.end], lambda member: not member.key.startswith(RESERVED), value_of)
        edits.append((meta.start, meta.end, f"{{{inner}}}"))
    for start, end, piece in sorted(edits, reverse=True):
        text = text[:start] + piece + text[end:]
    return text.encode()


def from_session(answer: Response, method: str, ident: JsonText) -> bytes:
    """The answer to a request. Raises UntranslatableError."""
    if answer.error is not None:
        error = answer.text[answer.error.start : answer.error.end]
        error = with_code(error, RESOURCE_NOT_FOUND, INVALID_PARAMS) if method == READ else error
        error = with_code(error, URL_REQUIRED, INTERNAL_ERROR)  # which its era does not know
        return f'{{"jsonrpc":"2.0","id":{ident},"error":{error}}}'.encode()
    result = answer.result
    if result is None or answer.text[result.start] != "{":
        raise UntranslatableError("answered with a result that is no object")
    members: list[Member] = result.value
    wanted = {RESULT_TYPE: '"complete"'} | ({"ttlMs": "0", "cacheScope": '"private"'} if method == READ else {})
    keys = {member.key for member in members}
    added = [f'"{key}":{value}' for key, value in wanted.items() if key not in keys]
    text, meta = _with_server(answer.text, last(members, "_meta"))
    text = text[result.start : result.end + len(text) - len(answer.text)]
    added += [meta] if meta else []
    inside = f"{',' if added else ''}{text[1:]}" if members else "}"
    prefix, suffix = around_result(ident)
    return b"".join([prefix, f"{{{','.join(added)}{inside}".encode(), suffix])


def heard(message: Notification, token: str, sender: Sender) -> str | None:
    """What a client hears of a server before the answer; None if that is not for it.

    That is progress of this request, and the log from the level on that the request names.
    """
    if message.method == PROGRESS:
        member = last(message.params, _PROGRESS_ID)
        if member is None or member.value != token or sender.token is None:
            return None
        return f"{message.text[: member.start]}{sender.token}{message.text[member.end :]}"
    level = last(message.params, "level")
    if message.method != MESSAGE or sender.level is None or level is None or level.value not in LEVELS:
        return None
    return message.text if LEVELS.index(level.value) >= LEVELS.index(sender.level) else None


def _text(text: str, member: Member) -> JsonText:
    return JsonText(text[member.start : member.end])


def _server() -> str:
    return f'"{META_SERVER}":{dumps({"name": PROGRAM, "version": __version__})}'


def _with_server(text: str, meta: Member | None) -> tuple[str, str]:
    """A text with the gateway's name in this `_meta`, or with that as a member to be added."""
    named = _server()
    if meta is None:
        return text, f'"_meta":{{{named}}}'
    if not isinstance(meta.value, dict) or META_SERVER in meta.value:
        return text, ""
    comma = "," if meta.value else ""
    return f"{text[: meta.start + 1]}{named}{comma}{text[meta.start + 1 :]}", ""


def more_verbose(one: str, other: str | None) -> bool:
    """Whether a level of the log is below another one; None is above all."""
    return other is None or LEVELS.index(one) < LEVELS.index(other)
