"""One ext_proc stream: the headers of a POST, then its body, and the decision as the last answer.

Returning right after the last answer closes the stream cleanly: Envoy ends its own side with END_STREAM and RST_STREAM back to
back, and a handler that waits for more would be reset.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import attrs
import trio
from google.protobuf.text_format import MessageToString
from grpclib.server import Stream

from mcpgw_sidecar.catalog.aliases import read_alias
from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.envoy.contract import Keep
from mcpgw_sidecar.extproc import codec
from mcpgw_sidecar.extproc.grpc import GrpcServer, bidirectional
from mcpgw_sidecar.extproc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from mcpgw_sidecar.model.decisions import Forward, HttpRequest, OpenSession, Reject, ToBroker
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.ports import NOT_STARTED, SessionDirectory, Stamps, Started
from mcpgw_sidecar.model.sessions import SessionState
from mcpgw_sidecar.observability.logs import get_logger, short
from mcpgw_sidecar.observability.metrics import Metrics
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.guard import Guard
from mcpgw_sidecar.protocol.jsonrpc import INTERNAL_ERROR, SERVER_ERROR
from mcpgw_sidecar.routing import decide
from mcpgw_sidecar.routing.stateful import SUBSCRIBE, UNSUBSCRIBE
from mcpgw_sidecar.routing.virtual import wanted

log = get_logger(__name__)

PATH = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
# Seconds that a call waits for a configuration: the answer has to come before Envoy gives up on the router.
START_LIMIT = 9.0
_OPENS = 3  # a session may be closed again (server changed) between opening and deciding; then the client tries again


class Router:
    """Answers Envoy. `snapshot` gives the catalog of the moment; `debug` logs every step; with `stamps` Envoy may repeat decisions."""

    def __init__(
        self,
        *,
        snapshot: Callable[[], Snapshot],
        started: Started,
        sessions: SessionDirectory,
        guard: Guard,
        metrics: Metrics,
        debug: bool,
        stamps: Stamps | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._started = started
        self._sessions = sessions
        self._guard = guard
        self._metrics = metrics
        self._debug = debug
        self._stamps = stamps

    def server(self) -> GrpcServer:
        """The gRPC server of this router."""
        return GrpcServer(bidirectional(PATH, self._wait_stream, ProcessingRequest, ProcessingResponse))

    async def wait_decided(self, request: HttpRequest) -> codec.Told:
        """The decision for one POST; opens the upstream session that it needs."""
        refused = self._guard.refuses(request.headers.get(":authority", ""), request.headers.get("origin"))
        if refused is not None:
            return refused
        virtual = wanted(request.path, request.headers)
        if isinstance(virtual, Reject):
            return virtual
        if virtual is not None:
            request = attrs.evolve(request, headers={**request.headers, h.X_VIRTUAL: virtual})
        for _ in range(_OPENS):
            session = self._sessions.lookup(request.headers.get(h.SESSION))
            decision = decide(request, self._snapshot(), session)
            if isinstance(decision, Reject) and not self._started.is_over():
                # It may be that its server has not answered yet, or that keys are still to come.
                with trio.move_on_after(START_LIMIT):
                    await self._started.wait_over()
                if not self._started.is_over():
                    return attrs.evolve(NOT_STARTED, id=decision.id, method=decision.method)
                session = self._sessions.lookup(request.headers.get(h.SESSION))
                decision = decide(request, self._snapshot(), session)
            if not isinstance(decision, OpenSession):
                if isinstance(decision, Forward) and isinstance(session, SessionState):
                    self._noticed(session, decision)
                return decision
            failed = await self._sessions.wait_open(decision.session, decision.server, h.for_upstream(request.headers))
            if failed is not None:
                return attrs.evolve(failed, id=decision.id)
        message = "The MCP server of this tool is being reconfigured: try again"
        return Reject(status=503, code=SERVER_ERROR, message=message, id=decision.id)

    def _noticed(self, state: SessionState, decision: Forward) -> None:
        if decision.method in {SUBSCRIBE, UNSUBSCRIBE}:
            wanted = decision.method == SUBSCRIBE
            alias = read_alias(decision.key)
            uri = alias[1] if alias is not None and alias[0] == decision.server.name else decision.key
            self._sessions.subscribed(state.session, decision.server, uri, wanted=wanted)

    async def _wait_stream(self, stream: Stream[ProcessingRequest, ProcessingResponse]) -> None:
        headers: dict[str, str] = {}
        while (message := await stream.recv_message()) is not None:
            match message.WhichOneof("request"):
                case "request_headers":
                    headers = codec.request_headers(message.request_headers)
                    if message.request_headers.end_of_stream:
                        await stream.send_message(await self._wait_answer(headers, None))
                        return
                    await stream.send_message(codec.go_on(with_response=self._debug))
                    continue
                case "request_body":
                    await stream.send_message(await self._wait_answer(headers, message.request_body.body))
                    if not self._debug:
                        return
                case "response_headers":
                    _log_response(codec.request_headers(message.response_headers))
                    await stream.send_message(codec.response_unchanged())
                    return
                case _:  # a phase that our own Envoy configuration does not ask for
                    log.warning("ext_proc phase ignored; is this Envoy's filter configured by this program?")
                    return

    async def _wait_answer(self, headers: dict[str, str], body: bytes | None) -> ProcessingResponse:
        started, keep = time.perf_counter(), None
        request = HttpRequest(headers=headers, body=body or b"")
        try:
            decision = await self.wait_decided(request)
            if isinstance(decision, Forward) and decision.kind is TOOL and self._stamps is not None:
                keep = _keep(request, decision, self._stamps)
        except Exception:  # a bug of ours: said in the log and to this client, and nobody else is touched
            log.exception("Router failed on a request")
            decision = Reject(status=500, code=INTERNAL_ERROR, message="Internal error of the gateway")
        seconds = time.perf_counter() - started
        self._metrics.ext_proc.observe(seconds)
        if isinstance(decision, Reject):
            self._metrics.answered(method=decision.method, server="", outcome=decision.outcome, seconds=seconds)
        response = codec.encode(decision, with_body=body is not None, keep=keep)
        if self._debug:
            _log_decision(decision, response)
        return response


def _keep(request: HttpRequest, decision: Forward, stamps: Stamps) -> Keep | None:
    """What Envoy needs to repeat a decision. The stamp is of the decision's moment: no await lies between that and this."""
    stamped = stamps.of(decision.session_key)
    return None if stamped is None else Keep(request=request, slot=stamped[0], stamp=stamped[1])


def _log_decision(decision: codec.Told, response: ProcessingResponse) -> None:
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
