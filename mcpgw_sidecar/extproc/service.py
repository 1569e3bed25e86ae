"""One ext_proc stream: the headers of a POST, then its body, and the decision as the last answer.

Returning right after the last answer closes the stream cleanly: Envoy ends its own side with END_STREAM and RST_STREAM back to
back, and a handler that waits for more would be reset.
"""

from __future__ import annotations

from typing import Any

import attrs
from google.protobuf.text_format import MessageToString
from grpclib.server import Stream

from mcpgw_sidecar.directory.deciding import Decider, Settled
from mcpgw_sidecar.envoy.contract import Keep
from mcpgw_sidecar.extproc import codec
from mcpgw_sidecar.extproc.h2server import GrpcServer, bidirectional
from mcpgw_sidecar.extproc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from mcpgw_sidecar.model.decisions import Forward, HttpRequest, Reject, ToBroker
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.ports import Stamps
from mcpgw_sidecar.observability.logs import get_logger, short
from mcpgw_sidecar.observability.metrics import Metrics
from mcpgw_sidecar.observability.requests import RequestRecord
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.jsonrpc import INTERNAL_ERROR
from mcpgw_sidecar.protocol.statuses import refusal

log = get_logger(__name__)

PATH = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


@attrs.frozen(kw_only=True)
class Router:
    """Answers Envoy. `debug` logs every step; with `stamps` Envoy may repeat decisions."""

    decider: Decider
    metrics: Metrics
    debug: bool
    stamps: Stamps | None = None

    def server(self) -> GrpcServer:
        """The gRPC server of this router."""
        return GrpcServer(bidirectional(PATH, self._wait_stream, ProcessingRequest, ProcessingResponse))

    async def _wait_stream(self, stream: Stream[ProcessingRequest, ProcessingResponse]) -> None:
        headers: dict[str, str] = {}
        while (message := await stream.recv_message()) is not None:
            match message.WhichOneof("request"):
                case "request_headers":
                    headers = codec.request_headers(message.request_headers)
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
                case _:  # a phase that our own Envoy configuration does not ask for
                    log.warning("ext_proc phase ignored; is this Envoy's filter configured by this program?")
                    return

    async def _wait_answer(self, headers: dict[str, str], body: bytes | None) -> ProcessingResponse:
        record, keep = RequestRecord(self.metrics), None
        request = HttpRequest(headers=headers, body=body or b"")
        decision: Settled
        try:
            decision = await self.decider.wait_decided(request)
            if isinstance(decision, Forward) and decision.kind is TOOL and self.stamps is not None:
                keep = _keep(request, decision, self.stamps)
        except Exception:  # a bug of ours: said in the log and to this client, and nobody else is touched
            log.exception("Router failed on a request")
            decision = refusal(INTERNAL_ERROR, "Internal error of the gateway")
        self.metrics.ext_proc.observe(record.seconds)
        if isinstance(decision, Reject):
            record.refuse(decision)
        response = codec.encode(decision, with_body=body is not None, keep=keep)
        if self.debug:
            _log_decision(decision, response)
        return response


def _keep(request: HttpRequest, decision: Forward, stamps: Stamps) -> Keep | None:
    """What Envoy needs to repeat a decision. The stamp is of the decision's moment: no await lies between that and this."""
    stamp = stamps.of(decision.session_key)
    return None if stamp is None else Keep(request=request, slot=stamp[0], stamp=stamp[1])


def _log_decision(decision: Settled, response: ProcessingResponse) -> None:
    """The guide's lines, in its order. Bodies, session ids and credentials are left out of the instructions shown."""
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
        case ToBroker(method=method):
            log.debug("[EXT-PROC] HandleRequestBody None tool call setting method header only" + method)
        case Reject(status=status, code=code, message=text):
            log.debug("Returning error", statusCode=status, code=code, message=text)
    log.debug("Sending MCP routing instructions to Envoy: " + _shown(response))


def _shown(response: ProcessingResponse) -> str:
    shown = ProcessingResponse()
    shown.CopyFrom(response)
    shown.ClearField("dynamic_metadata")
    phase: Any = shown.request_body.response if shown.HasField("request_body") else None
    if phase is not None:
        phase.ClearField("body_mutation")
        for option in phase.header_mutation.set_headers:
            option.ClearField("append_action")
            if option.header.key in {h.SESSION, ":path"}:
                option.header.raw_value = b"..."
    text = MessageToString(shown, as_one_line=True)  # and now the way in which Go, and so the guide, writes it
    return text.replace(" { ", ":{").replace(" }", "}").replace(': "', ':"')


def _log_response(headers: dict[str, str]) -> None:
    session = headers.get(h.SESSION)
    log.debug("[EXT-PROC] Response backend session: " + (short(session) if session else ""))
    log.debug("[EXT-PROC] Session ID doesn't need reverse mapping")
    size = headers.get("content-length", "unknown")
    log.debug("[EXT-PROC] Processing response body... (size: " + size + ", streamed by Envoy)")
