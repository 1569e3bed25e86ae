"""Envoy's messages to the model and back. Wire types stop here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import assert_never

import attrs
from google.protobuf.struct_pb2 import Struct

from mcpgw_sidecar.envoy.replies import METADATA
from mcpgw_sidecar.extproc.pb.ext_proc_pb2 import (
    CommonResponse,
    HeaderMutation,
    HeaderValueOption,
    HttpHeaders,
    ProcessingMode,
    ProcessingResponse,
)
from mcpgw_sidecar.model.decisions import Forward, HttpRequest, Reject, ToBroker
from mcpgw_sidecar.model.kinds import PROMPT, RESOURCE, TOOL
from mcpgw_sidecar.model.names import BROKER
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.jsonrpc import error_text
from mcpgw_sidecar.protocol.jsontext import dumps

_PLAIN = re.compile(r"[\w./:@+-]+", re.ASCII)  # a name that is the same as a header, and between quotes
_HEADERS = {TOOL.name: h.X_TOOL, PROMPT.name: h.X_PROMPT, RESOURCE.name: h.X_RESOURCE}

Told = Forward | ToBroker | Reject
"""The decisions that can be told to Envoy; OpenSession never leaves the router."""


def request_headers(message: HttpHeaders) -> dict[str, str]:
    """Headers by lower-case name; of a repeated one the last counts. Bytes as Latin-1: any byte survives the way through."""
    return {header.key: header.raw_value.decode("latin-1") or header.value for header in message.headers.headers}


def go_on(*, with_response: bool) -> ProcessingResponse:
    """The answer to request headers: nothing to change yet. `with_response` asks for the response headers too."""
    response = ProcessingResponse()
    response.request_headers.SetInParent()
    if with_response:
        mode = response.mode_override
        mode.request_header_mode = ProcessingMode.SEND
        mode.request_body_mode = ProcessingMode.BUFFERED
        mode.response_header_mode = ProcessingMode.SEND
        mode.request_trailer_mode = mode.response_trailer_mode = ProcessingMode.SKIP
    return response


def response_unchanged() -> ProcessingResponse:
    """The answer to response headers: they are Envoy's business."""
    response = ProcessingResponse()
    response.response_headers.SetInParent()
    return response


@attrs.frozen(kw_only=True)
class Keep:
    """What Envoy needs besides the decision to repeat it: the request, and as long as what it holds."""

    request: HttpRequest
    slot: int
    stamp: str


def encode(decision: Told, *, with_body: bool = True, keep: Keep | None = None) -> ProcessingResponse:
    """The answer to a request body, or to the headers of a request without one."""
    response = ProcessingResponse()
    match decision:
        case Reject():
            _describe(response, answered="1")
            immediate = response.immediate_response
            immediate.status.code = decision.status
            immediate.body = error_text(decision.id, decision.code, decision.message, decision.data)
            immediate.details = f"mcpgw_rejected_{-decision.code}"
            _set(immediate.headers, [("content-type", b"application/json")])
        case ToBroker():
            _describe(response, id=decision.id)
            values = [(h.X_SERVER, BROKER.encode())]
            if decision.method:
                values.append((h.X_METHOD, h.value_of(decision.method).encode()))
            _set(_phase(response, with_body).header_mutation, values)
        case Forward():
            what = dumps(decision.key or "an answer")[1:-1]  # Envoy writes it between quotes
            # The session is for the Lua filters: metadata reaches every attempt and no server, a header would reach both.
            session = decision.session_key if decision.last_event_id is None else ""  # a stream has nothing to heal
            _describe(response, id=decision.id, what=what, session=f"{session} {decision.owner}")
            _forward(_phase(response, with_body), decision)
            if keep is not None and decision.kind is TOOL and _PLAIN.fullmatch(decision.key):
                _set(_phase(response, with_body).header_mutation, [(h.X_MEMO, h.KEPT.encode())])
                _memo(response.dynamic_metadata.fields[METADATA].struct_value.fields["memo"].struct_value, decision, keep)
        case _:
            assert_never(decision)
    return response


def _phase(response: ProcessingResponse, with_body: bool) -> CommonResponse:  # noqa: FBT001  # as encode was asked
    return response.request_body.response if with_body else response.request_headers.response


def _forward(common: CommonResponse, decision: Forward) -> None:
    # Origin was judged here; the server, which knows its own name alone, would refuse it.
    # Accept-Encoding goes too: in compressed event streams the requests of servers could not be made to name their server.
    common.header_mutation.remove_headers.extend(["origin", "accept-encoding", h.X_VIRTUAL])
    values = [
        (h.X_SERVER, decision.server.name.encode()),
        (h.VERSION, decision.protocol_version.encode()),
        (":authority", decision.server.hostname.encode()),
        (":path", decision.server.path.encode()),
    ]
    if decision.kind is not None:
        header = _HEADERS[decision.kind.name]
        values += [(h.X_METHOD, decision.method.encode()), (header, h.value_of(decision.key).encode())]
    if decision.session_id is None:
        common.header_mutation.remove_headers.append(h.SESSION)
    else:
        values.append((h.SESSION, decision.session_id.encode()))
    if decision.last_event_id is None:
        values.append(("content-length", str(len(decision.body)).encode()))
        common.body_mutation.body = decision.body
    else:
        values.append((h.LAST_EVENT, decision.last_event_id.encode("latin-1", "replace")))
    _set(common.header_mutation, values)
    common.clear_route_cache = True


def _describe(response: ProcessingResponse, **values: str) -> None:
    """Leave what Envoy's own answers say of this request (envoy/replies.py)."""
    fields = response.dynamic_metadata.fields[METADATA].struct_value.fields
    for key, value in values.items():
        fields[key].string_value = value


def _memo(memo: Struct, decision: Forward, keep: Keep) -> None:
    """What the route memo keeps (envoy/memo.lua): the headers on which the decision depends, and what it repeats."""
    headers, server = keep.request.headers, decision.server
    depends = {"host": ":authority", "path": ":path", "origin": "origin", "virtual": h.X_VIRTUAL, "version": h.VERSION}
    asked = {"version": "", **{name: headers[header] for name, header in depends.items() if header in headers}}
    texts = {
        **asked,
        "token": headers.get(h.SESSION, ""),
        "name": decision.key,
        "server": server.name,
        "authority": server.hostname,
        "to": server.path,
        "renamed": decision.sent_key if decision.sent_key != dumps(decision.key) else None,
        "speaks": decision.protocol_version,
        "id": decision.session_id,
        "stamp": keep.stamp,
    }
    for name, text in texts.items():
        if text is not None:
            memo.fields[name].string_value = text
    memo.fields["slot"].number_value = keep.slot
    memo.fields["expires"].number_value = decision.expires


def _set(mutation: HeaderMutation, values: Iterable[tuple[str, bytes]]) -> None:
    for key, value in values:
        option = mutation.set_headers.add()
        option.header.key = key
        option.header.raw_value = value
        option.append_action = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
