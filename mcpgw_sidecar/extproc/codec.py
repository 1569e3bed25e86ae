"""Translates Envoy's messages to the model and back. Wire types stop here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import assert_never

from google.protobuf.struct_pb2 import Struct

from mcpgw_sidecar.directory.deciding import Settled
from mcpgw_sidecar.envoy.contract import ANSWERED, ID, MEMO, METADATA, OWNER, PLAIN, REFUSAL, REMOVED, TRUSTED, WHAT, WHO
from mcpgw_sidecar.envoy.entries import MEMO_FIELDS, Keep, memo_entry, refusal_of, who_of
from mcpgw_sidecar.extproc.pb.ext_proc_pb2 import (
    CommonResponse,
    HeaderMutation,
    HeaderValueOption,
    HttpHeaders,
    ProcessingMode,
    ProcessingResponse,
)
from mcpgw_sidecar.inbound.virtual import scope_of
from mcpgw_sidecar.model.decisions import Carry, Forward, HttpRequest, Reject, ToBroker
from mcpgw_sidecar.model.kinds import PROMPT, RESOURCE, TOOL
from mcpgw_sidecar.model.names import BROKER, Scope
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.jsonrpc import error_text
from mcpgw_sidecar.protocol.jsontext import dumps
from mcpgw_sidecar.protocol.passing import changes, passed_text

_PLAIN = re.compile(r"[\w./:@+-]+", re.ASCII)  # a name that needs no escapes in a header or in quotes
_HEADERS = {TOOL.name: h.X_TOOL, PROMPT.name: h.X_PROMPT, RESOURCE.name: h.X_RESOURCE}


def request_headers(message: HttpHeaders) -> dict[str, str]:
    """Headers by lower-case name; a repeated header has its values in a list (RFC 9110, 5.2).

    Bytes are decoded as Latin-1, so that any byte survives.
    """
    return h.joined((header.key, header.raw_value.decode("latin-1") or header.value) for header in message.headers.headers)


def go_on(*, with_response: bool) -> ProcessingResponse:
    """The answer to request headers: no change yet.

    `with_response` asks for the response headers, too.
    """
    response = ProcessingResponse()
    response.request_headers.SetInParent()
    if with_response:
        mode = response.mode_override
        mode.request_header_mode = ProcessingMode.SEND
        mode.request_body_mode = ProcessingMode.BUFFERED
        mode.response_header_mode = ProcessingMode.SEND
        mode.request_trailer_mode = mode.response_trailer_mode = ProcessingMode.SKIP
    return response


def own_request() -> ProcessingResponse:
    """The answer to a request of this sidecar itself: it may go to the server that it names."""
    response = ProcessingResponse()
    mutation = response.request_headers.response.header_mutation
    _set(mutation, [(h.X_SERVER, BROKER.encode())])
    mutation.remove_headers.append(h.X_OWN)
    return response


def response_unchanged() -> ProcessingResponse:
    """The answer to response headers: no change."""
    response = ProcessingResponse()
    response.response_headers.SetInParent()
    return response


def is_plain(request: HttpRequest) -> bool:
    """Whether the client takes JSON alone.

    Servers may answer with an event stream all the same, and those of the official SDKs refuse such
    a request. Envoy makes JSON of the stream (envoy/lua/plain.lua).
    """
    return h.accepted(request.headers.get("accept")) == {h.JSON}


def encode(
    decision: Settled, request: HttpRequest, *, with_body: bool = True, keep: Keep | None = None
) -> ProcessingResponse:
    """The answer to a request body, or to the headers of a request without one."""
    response = ProcessingResponse()
    _say_who(response, decision, request)
    match decision:
        case Reject():
            _describe(response, **{ANSWERED: "1"})
            _tell(response, REFUSAL, refusal_of(decision))
            immediate = response.immediate_response
            immediate.status.code = decision.status
            immediate.body = error_text(decision.id, decision.code, decision.message, decision.data)
            immediate.details = f"mcpgw_rejected_{-decision.code}"
            _set(immediate.headers, [("content-type", b"application/json")])
            if decision.challenge:
                _set(immediate.headers, [("www-authenticate", decision.challenge.encode("latin-1", "replace"))])
        case ToBroker():
            _describe(response, **{ID: decision.id})
            values = [(h.X_SERVER, BROKER.encode())]
            if decision.method:
                values.append((h.X_METHOD, h.value_of(decision.method).encode()))
            _set(_phase(response, with_body).header_mutation, values)
        case Carry():
            _describe(response, **{ID: decision.id})
            # In a listener of ours log, limits and the operator's filters see the server, whose
            # other route leads to the broker.
            to = [(h.X_SERVER, decision.server.name.encode()), (h.X_CARRIED, b"1")]
            values = to if h.X_SIZE in request.headers else [(h.X_SERVER, BROKER.encode())]
            values += [(h.X_METHOD, decision.method.encode())]
            values += [(_HEADERS[decision.kind.name], h.value_of(decision.key).encode())]
            _set(_phase(response, with_body).header_mutation, values)
            _keep(response, _phase(response, with_body), decision, keep)
        case Forward():
            _pass_on(response, decision, request, keep, with_body=with_body)
        case _:
            assert_never(decision)
    return response


def _pass_on(
    response: ProcessingResponse, decision: Forward, request: HttpRequest, keep: Keep | None, *, with_body: bool
) -> None:
    """Say how a request goes on to its server, and what the Lua filters need to know of it."""
    common = _phase(response, with_body)
    what = dumps(decision.key or "an answer")[1:-1]  # Envoy writes it between quotes
    # The session is for the Lua filters. Metadata reaches every attempt and no server; a
    # header would reach both.
    # An answer, or a stream, belongs to its session alone; without sessions nothing heals.
    session = request.headers.get(h.SESSION, "") if decision.session is not None else "-"
    healed = session if decision.kind is not None else ""
    _describe(response, **{ID: decision.id, WHAT: what, OWNER: f"{healed} {decision.owner}"})
    if decision.server.trusted:
        _describe(response, **{TRUSTED: "1"})
    _forward(common, decision, request.headers)
    if decision.last_event_id is None and not h.names_both(request.headers.get("accept", "")):
        _set(common.header_mutation, [("accept", h.BOTH.encode())])
        if decision.kind is not None and decision.session is not None and is_plain(request):
            _describe(response, **{PLAIN: "1"})
            _set(common.header_mutation, [(h.X_MEMO, h.KEPT.encode())])
    _keep(response, common, decision, keep)


def _keep(response: ProcessingResponse, common: CommonResponse, decision: Forward | Carry, keep: Keep | None) -> None:
    """Let Envoy repeat a decision once its answer is here."""
    if keep is not None and decision.kind is TOOL and _PLAIN.fullmatch(decision.key):
        _set(common.header_mutation, [(h.X_MEMO, h.KEPT.encode())])
        _memo(response.dynamic_metadata.fields[METADATA].struct_value.fields[MEMO].struct_value, decision, keep)


def _phase(response: ProcessingResponse, with_body: bool) -> CommonResponse:  # noqa: FBT001  # the argument of encode
    return response.request_body.response if with_body else response.request_headers.response


def _forward(common: CommonResponse, decision: Forward, headers: Mapping[str, str]) -> None:
    values = [
        (h.X_SERVER, decision.server.name.encode()),
        (h.VERSION, decision.protocol_version.encode()),
        (":authority", decision.server.hostname.encode()),
        (":path", decision.server.path.encode()),
    ]
    if decision.kind is not None:
        header = _HEADERS[decision.kind.name]
        values += [(h.X_METHOD, decision.method.encode()), (header, h.value_of(decision.key).encode())]
    if decision.session is None:
        common.header_mutation.remove_headers.append(h.LAST_EVENT)
    if decision.name_header is not None:
        values.append((h.MCP_NAME, decision.name_header.encode()))
    if decision.session_id is None:
        common.header_mutation.remove_headers.append(h.SESSION)
    else:
        values.append((h.SESSION, decision.session_id.encode()))
    if decision.last_event_id is None:
        values.append(("content-length", str(len(decision.body)).encode()))
        values.append(("content-type", h.JSON.encode()))
        common.body_mutation.body = decision.body
    else:
        values.append((h.LAST_EVENT, decision.last_event_id.encode("latin-1", "replace")))
    if h.X_SIZE in headers:  # a listener of ours: no filter after this one reads what the server does not get
        lost, sent = changes(headers, decision.server.wanted)
        common.header_mutation.remove_headers.extend(lost)
        values += [(name, value.encode("latin-1")) for name, value in sent.items()]
    else:
        common.header_mutation.remove_headers.extend(REMOVED)
        values.append((h.X_PASSED, passed_text(decision.passed).encode()))
        exchanged = decision.server.exchanged_header
        if decision.given is not None:
            values.append((exchanged, decision.given.value.encode("latin-1")))
        elif decision.server.token_exchange is not None and exchanged in headers:
            values.append((exchanged, headers[exchanged].encode("latin-1")))
    _set(common.header_mutation, values)
    common.clear_route_cache = True


def _describe(response: ProcessingResponse, **values: str) -> None:
    """Set the metadata that Envoy's own answers repeat of this request (envoy/replies.py)."""
    fields = response.dynamic_metadata.fields[METADATA].struct_value.fields
    for key, value in values.items():
        fields[key].string_value = value


def _say_who(response: ProcessingResponse, decision: Settled, request: HttpRequest) -> None:
    """Set what the access log says of the caller; of a hit memo.lua does."""
    session, scope = getattr(decision, "session", None), scope_of(request.path, request.headers)
    who = who_of(session) if session is not None else {}
    who["host"] = request.headers.get(":authority", "")
    if isinstance(scope, Scope) and scope.virtual is not None:
        who["virtual_server"] = scope.virtual
    _tell(response, WHO, who)


def _tell(response: ProcessingResponse, member: str, words: Mapping[str, str]) -> None:
    """Set a member of the metadata that has members of its own: for the access log."""
    fields = response.dynamic_metadata.fields[METADATA].struct_value.fields[member].struct_value.fields
    for name, word in words.items():
        if word:
            fields[name].string_value = word


def _memo(memo: Struct, decision: Forward | Carry, keep: Keep) -> None:
    """Set the metadata with the entry for memo.lua."""
    entry = memo_entry(decision, keep)
    for name in MEMO_FIELDS:
        value = getattr(entry, name)
        if isinstance(value, str):
            memo.fields[name].string_value = value
        elif isinstance(value, int):
            memo.fields[name].number_value = value
        elif value is not None:
            headers = memo.fields[name].struct_value.fields
            for header, text in value.items():
                headers[header].string_value = text


def _set(mutation: HeaderMutation, values: Iterable[tuple[str, bytes]]) -> None:
    for key, value in values:
        option = mutation.set_headers.add()
        option.header.key = key
        option.header.raw_value = value
        option.append_action = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
