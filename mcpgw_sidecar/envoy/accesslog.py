"""What Envoy writes down of each request: a line on its output, and counters."""

from __future__ import annotations

import json
from collections.abc import Mapping

from mcpgw_sidecar.envoy.clusters import LOGS_CLUSTER, Resource, type_url
from mcpgw_sidecar.envoy.contract import ANSWER, ANSWERED, FAILED, LOOKUP, METADATA, REFUSAL, WHO
from mcpgw_sidecar.envoy.flags import BROKEN, NO_ROUTE, NONSENSE, TOO_MANY, UNCOUNTED, UNREACHABLE
from mcpgw_sidecar.envoy.login import CLAIMS, JWT
from mcpgw_sidecar.model.access import Authentication
from mcpgw_sidecar.model.names import BROKER
from mcpgw_sidecar.protocol import headers as h

_WHO = ("session", "client_name", "client_version", "host", "virtual_server")


def on_stdout(authentication: Authentication | None = None) -> Resource:
    """One JSON object a request on stdout."""
    return {
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": type_url("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"),
            "log_format": {"json_format": dict(_fields(authentication))},
        },
    }


def to_collector(authentication: Authentication | None) -> Resource:
    """The same as records of OpenTelemetry, whose attributes are the fields; "-" is none."""
    attributes = [{"key": name, "value": {"string_value": value}} for name, value in _fields(authentication).items()]
    return {
        "name": "envoy.access_loggers.open_telemetry",
        "typed_config": {
            "@type": type_url("envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig"),
            "log_name": "mcpgw",
            "grpc_service": {"envoy_grpc": {"cluster_name": LOGS_CLUSTER}, "timeout": "10s"},
            "stat_prefix": "mcpgw",
            "resource_attributes": {"values": [{"key": "service.name", "value": {"string_value": "mcpgw"}}]},
            "attributes": {"values": attributes},
        },
    }


def _fields(authentication: Authentication | None) -> Mapping[str, str]:
    """The line of a request (interface.md); with a login it says who called.

    The subject is that of the issuers' claim, or of `sub` where they have several. Of what the
    router refuses, no header says method, server and tool.
    """
    claims = {issuer.subject for issuer in authentication.issuers} if authentication is not None else set()
    subject = claims.pop() if len(claims) == 1 else "sub"
    caller = {
        name: f"%DYNAMIC_METADATA({JWT}:{CLAIMS}:{claim})%" for name, claim in (("subject", subject), ("issuer", "iss"))
    }
    return {
        "time": "%START_TIME%",
        "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        **(caller if authentication is not None else {}),
        **{name: f"%DYNAMIC_METADATA({METADATA}:{WHO}:{name})%" for name in _WHO},
        "http": "%REQ(:METHOD)%",
        "method": _asked(h.X_METHOD, "method"),
        "tool": _asked(h.X_TOOL, "tool"),
        "prompt": f"%REQ({h.X_PROMPT})%",
        "resource": f"%REQ({h.X_RESOURCE})%",
        "server": _asked(h.X_SERVER, "server"),
        "translated": f"%REQ({h.X_CARRIED})%",
        "protocol_version": f"%REQ({h.VERSION})%",
        # Of what is not refused `audit` says it: to judge here (CEL) costs a twentieth of a hit.
        "outcome": f"%DYNAMIC_METADATA({METADATA}:{REFUSAL}:outcome)%",
        "reason": f"%DYNAMIC_METADATA({METADATA}:{FAILED})%",
        "code": f"%DYNAMIC_METADATA({METADATA}:{REFUSAL}:code)%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "duration_ms": "%DURATION%",
        "upstream_ms": "%RESPONSE_DURATION%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "user_agent": "%REQ(USER-AGENT)%",
        "traceparent": "%REQ(TRACEPARENT)%",
    }


def _asked(header: str, member: str) -> str:
    """A header of the request, or what the refusal says instead."""
    found = [{"command": "REQ", "param": header}, {"command": "DYNAMIC_METADATA", "param": f"{METADATA}:{REFUSAL}:{member}"}]
    return f"%COALESCE({json.dumps({'operators': found})})%"


def counters(*, memo: bool) -> Resource:
    """Counters of the requests that Envoy answers or carries, by server, tool and status.

    The sidecar never sees these; `/metrics` reads the counters. With `memo` they also count by
    lookup: memo.lua sets `miss` or `declined`, and nothing for a hit.
    """
    values = {
        "method": f"%REQ({h.X_METHOD})%",
        "server": f"%REQ({h.X_SERVER})%",
        "tool": f"%REQ({h.X_TOOL})%",
        # Each tag costs, so these are one. A stream may break off, or fall silent, after its start.
        ANSWER: f"%RESPONSE_CODE% %RESPONSE_FLAGS% %DYNAMIC_METADATA({METADATA}:{FAILED})%",
    }
    tags = [{"name": name, "value_format": value} for name, value in values.items()]
    lookup = [{"name": LOOKUP, "value_format": f"%DYNAMIC_METADATA({METADATA}:{LOOKUP})%"}] if memo else []
    return {
        "name": "mcpgw_counters",
        "filter": _not_counted_by_the_sidecar(),
        "typed_config": {
            "@type": type_url("envoy.extensions.access_loggers.stats.v3.Config"),
            "stats_scope": {"prefix": "mcpgw"},
            "counters": [{"stat": {"name": "calls", "tags": tags + lookup}, "value_fixed": 1}],
            "histograms": [
                {"stat": {"name": "call_duration", "tags": tags}, "value_format": "%DURATION%", "unit": "Milliseconds"}
            ],
        },
    }


def _not_counted_by_the_sidecar() -> Resource:
    """An access log's filter. The router bounds the tags' values: it sets known names alone."""
    present = _logged(h.X_SERVER, {"present_match": True})
    elsewhere = _logged(h.X_SERVER, {"string_match": {"exact": BROKER}, "invert_match": True})
    not_carried = _logged(h.X_CARRIED, {"present_match": True, "invert_match": True})
    # The metadata filter of an access log cannot be inverted (seen with Envoy 1.40): no value there
    # is "never".
    never = {"string_match": {"exact": "never"}}
    answered = {"filter": METADATA, "path": [{"key": ANSWERED}], "value": never}
    # Envoy's own answer to a POST that was never decided: too large a body, or no router.
    undecided_post = {
        "and_filter": {
            "filters": [
                _logged(":method", {"string_match": {"exact": "POST"}}),
                _logged(h.X_SERVER, {"present_match": True, "invert_match": True}),
                {"metadata_filter": {"matcher": answered, "match_if_key_not_found": True}},
            ]
        }
    }
    # The same where the broker should have answered, and cannot be reached, or is not asked.
    without_broker = {
        "response_flag_filter": {"flags": [*UNREACHABLE, *NO_ROUTE, *BROKEN, *NONSENSE, *TOO_MANY, *UNCOUNTED]}
    }
    return {
        "or_filter": {
            "filters": [{"and_filter": {"filters": [present, elsewhere, not_carried]}}, undecided_post, without_broker]
        }
    }


def _logged(name: str, value: Resource) -> Resource:
    return {"header_filter": {"header": {"name": name, **value}}}
