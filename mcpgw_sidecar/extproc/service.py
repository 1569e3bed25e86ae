"""Serves ext_proc streams: headers of a POST, then its body, and the decision as the last answer.

The handler returns right after the last answer, which closes the stream cleanly. Envoy ends its own
side with END_STREAM and RST_STREAM back to back, and would reset a handler that waits for more.
"""

from __future__ import annotations

import hmac
from typing import Any

import attrs
from google.protobuf.text_format import MessageToString
from grpclib.server import Stream

from mcpgw_sidecar.directory.deciding import Decider, Settled
from mcpgw_sidecar.envoy.entries import Audience, Keep
from mcpgw_sidecar.extproc import codec
from mcpgw_sidecar.extproc.h2server import GrpcServer, bidirectional
from mcpgw_sidecar.extproc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from mcpgw_sidecar.model.decisions import Carry, Forward, HttpRequest, Reject, ToBroker
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.ports import Stamps
from mcpgw_sidecar.model.servers import EXCHANGED, IF_ABSENT
from mcpgw_sidecar.model.sessions import short
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.observability.metrics import Metrics
from mcpgw_sidecar.observability.requests import RequestRecord
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.extensions import UI, declares
from mcpgw_sidecar.protocol.jsonrpc import INTERNAL_ERROR
from mcpgw_sidecar.protocol.jsontext import dumps
from mcpgw_sidecar.protocol.statuses import for_era, refusal

log = get_logger(__name__)

_SHOWN = frozenset({":authority", h.VERSION, "accept", "content-type", "content-length"})
MAX_GIVEN = 4096  # characters of a token that Envoy keeps
PATH = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


@attrs.frozen(kw_only=True)
class Router:
    """Answers Envoy. `debug` logs every step; with `stamps` Envoy may repeat decisions.

    `own` is the secret of this sidecar's own requests, which may come by the gateway (Istio).
    """

    decider: Decider
    metrics: Metrics
    debug: bool
    stamps: Stamps | None = None
    own: str = ""

    def server(self) -> GrpcServer:
        """The gRPC server of this router."""
        return GrpcServer(bidirectional(PATH, self._wait_stream, ProcessingRequest, ProcessingResponse))

    async def _wait_stream(self, stream: Stream[ProcessingRequest, ProcessingResponse]) -> None:
        headers: dict[str, str] = {}
        while (message := await stream.recv_message()) is not None:
            match message.WhichOneof("request"):
                case "request_headers":
                    headers = codec.request_headers(message.request_headers)
                    if self._is_own(headers):
                        await stream.send_message(codec.own_request())
                        return
                    if message.request_headers.end_of_stream:
                        await stream.send_message(await self._wait_answer(headers, None))
                        return
                    await stream.send_message(codec.go_on(with_response=self.debug))
                    continue
                case "request_body":
                    await stream.send_message(await self._wait_answer(headers, message.request_body.body))
                    if not self.debug:
                        return
                case "response_headers":
                    _log_response(codec.request_headers(message.response_headers))
                    await stream.send_message(codec.response_unchanged())
                    return
                case _:  # our own Envoy configuration has no other phase
                    log.warning("ext_proc phase ignored; is this Envoy's filter configured by this program?")
                    return

    def _is_own(self, headers: dict[str, str]) -> bool:
        """Whether this sidecar has sent the request. Any other is decided like all."""
        return h.X_OWN in headers and bool(self.own) and hmac.compare_digest(headers[h.X_OWN].encode(), self.own.encode())

    async def _wait_answer(self, headers: dict[str, str], body: bytes | None) -> ProcessingResponse:
        record, keep = RequestRecord(self.metrics), None
        request = HttpRequest(headers=headers, body=body or b"")
        decision: Settled
        try:
            request, decision = await self.decider.wait_decided(request)
            if isinstance(decision, Forward | Carry) and self.stamps is not None and _is_kept(decision, request):
                keep = _keep(request, decision, self.stamps)
        except Exception:  # a bug of ours: the log and this client get the error, and no other client
            log.exception("Router failed on a request")
            decision = refusal(INTERNAL_ERROR, "Internal error of the gateway")
        self.metrics.ext_proc.observe(record.seconds)
        if isinstance(decision, Reject):
            decision = for_era(decision, headers.get(h.VERSION))
            record.refuse(decision)
        response = codec.encode(decision, request, with_body=body is not None, keep=keep)
        if self.debug:
            _log_decision(decision, response)
        return response


def _is_kept(decision: Forward | Carry, request: HttpRequest) -> bool:
    """Whether Envoy may repeat a decision: one about a call of a client that takes both types.

    A page calls a tool by its bare name: whether one server alone has it depends on all servers. In
    a listener of Istio's what the broker carries looks as what it answers.
    """
    if decision.kind is not TOOL or codec.is_plain(request):
        return False
    if isinstance(decision, Carry):
        has_pages = decision.session is not None and declares(decision.session, UI)
        return h.X_SIZE in request.headers and not has_pages
    if decision.server.token_exchange is not None and decision.given is None:
        return False
    if decision.given is not None and len(decision.given.value) > MAX_GIVEN:
        return False
    # In Istio some clients of a server get its credential then, and some do not.
    if decision.server.credential_use == IF_ABSENT and h.X_SIZE not in request.headers:
        return False
    return decision.server.tool_prefix == "" or decision.sent_key != dumps(decision.key)


def _keep(request: HttpRequest, decision: Forward | Carry, stamps: Stamps) -> Keep | None:
    """The values that Envoy needs to repeat a decision.

    There is no await since the decision, so the stamp is of the same moment.
    """
    session = decision.session
    audience = Audience.of(session) if session is not None else Audience.stateless(apps=decision.apps)
    stamp = stamps.of(audience.session_key, decision.server.name)
    return None if stamp is None else Keep(request=request, stamp=stamp, audience=audience)


def _log_decision(decision: Settled, response: ProcessingResponse) -> None:
    """Log the lines of the guide, in its order.

    The instructions are logged without bodies, session ids and credentials.
    """
    match decision:
        case Forward():
            prefix, tool = decision.server.tool_prefix, decision.key
            log.debug("Processing request", method=decision.method)
            log.debug(
                "[EXT-PROC] Found matching server",
                toolName=tool,
                serverPrefix=prefix,
                serverName=decision.server.name,
            )
            log.debug("Stripped tool name", tool=tool.removeprefix(prefix), originalPrefix=prefix)
            log.debug("Completed MCP processing with routing", target=decision.server.name)
        case ToBroker(method=method) | Carry(method=method):
            log.debug("[EXT-PROC] HandleRequestBody None tool call setting method header only" + method)
        case Reject(status=status, code=code, message=text):
            log.debug("Returning error", statusCode=status, code=code, message=text)
    log.debug("Sending MCP routing instructions to Envoy: " + _log_text(response))


def _log_text(response: ProcessingResponse) -> str:
    copy = ProcessingResponse()
    copy.CopyFrom(response)
    copy.ClearField("dynamic_metadata")
    phase: Any = copy.request_body.response if copy.HasField("request_body") else None
    if phase is not None:
        phase.ClearField("body_mutation")
        for option in phase.header_mutation.set_headers:
            option.ClearField("append_action")
            if not _is_shown(option.header.key):
                option.header.raw_value = b"..."
    text = MessageToString(copy, as_one_line=True)  # the next line rewrites it in Go's format, as in the guide
    return text.replace(" { ", ":{").replace(" }", "}").replace(': "', ':"')


def _is_shown(name: str) -> bool:
    """Whether the value of a header that the router sets may stand in the log."""
    return name in _SHOWN or (name.startswith("x-mcp-") and not name.startswith(EXCHANGED))


def _log_response(headers: dict[str, str]) -> None:
    session = headers.get(h.SESSION)
    log.debug("[EXT-PROC] Response backend session: " + (short(session) if session else ""))
    log.debug("[EXT-PROC] Session ID doesn't need reverse mapping")
    size = headers.get("content-length", "unknown")
    log.debug("[EXT-PROC] Processing response body... (size: " + size + ", streamed by Envoy)")
