"""Envoy's counters as metrics of ours."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from mcpgw_sidecar.admin.app import _Merged
from mcpgw_sidecar.admin.envoystats import outcome_of, translate
from mcpgw_sidecar.observability.metrics import Metrics

ENVOY = """\
# TYPE envoy_mcpgw_calls counter
envoy_mcpgw_calls{method="tools/call",server="a",tool="t",code="200"} 3
envoy_mcpgw_calls{method="tools/call",server="a",tool="t",code="202"} 1
envoy_mcpgw_calls{method="prompts/get",server="a",tool="-",code="503"} 2
# TYPE envoy_mcpgw_call_duration histogram
envoy_mcpgw_call_duration_bucket{method="tools/call",server="a",tool="t",code="200",le="0.5"} 1
envoy_mcpgw_call_duration_bucket{method="tools/call",server="a",tool="t",code="200",le="5"} 3
envoy_mcpgw_call_duration_bucket{method="tools/call",server="a",tool="t",code="200",le="+Inf"} 3
envoy_mcpgw_call_duration_bucket{method="tools/call",server="a",tool="t",code="202",le="0.5"} 1
envoy_mcpgw_call_duration_bucket{method="tools/call",server="a",tool="t",code="202",le="5"} 1
envoy_mcpgw_call_duration_bucket{method="tools/call",server="a",tool="t",code="202",le="+Inf"} 1
envoy_mcpgw_call_duration_sum{method="tools/call",server="a",tool="t",code="200"} 6
envoy_mcpgw_call_duration_sum{method="tools/call",server="a",tool="t",code="202"} 0.4
envoy_mcpgw_call_duration_count{method="tools/call",server="a",tool="t",code="200"} 3
envoy_other{x="y"} 1
"""


def rendered(*families: object) -> str:
    registry = CollectorRegistry(auto_describe=False)
    collector: Collector = _Merged(families)  # type: ignore[arg-type]
    registry.register(collector)
    return generate_latest(registry).decode()


@pytest.mark.duty("metrics.requests")
def test_codes_of_one_outcome_are_one_series() -> None:
    text = rendered(*translate(ENVOY))
    assert 'mcpgw_requests_total{method="tools/call",outcome="ok",server="a",tool="t"} 4.0' in text
    assert 'mcpgw_requests_total{method="prompts/get",outcome="unavailable",server="a",tool=""} 2.0' in text
    bucket = 'mcpgw_request_duration_seconds_bucket{le="0.0005",method="tools/call",outcome="ok",server="a",tool="t"} 2.0'
    assert bucket in text
    assert 'mcpgw_request_duration_seconds_sum{method="tools/call",outcome="ok",server="a",tool="t"} 0.0064' in text
    samples = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(samples) == len(set(samples))


@pytest.mark.duty("metrics.requests")
def test_what_envoy_and_the_sidecar_count_is_one_metric() -> None:
    metrics = Metrics()
    metrics.answered(method="ping", server="mcpBroker", tool="", outcome="ok", seconds=0.01)
    metrics.answered(method="x" * 1000, server="mcpBroker", tool="", outcome="rpc_error", seconds=0.01)
    text = rendered(*metrics.registry.collect(), *translate(ENVOY))
    assert text.count("# TYPE mcpgw_requests_total counter") == 1
    assert 'method="ping",outcome="ok",server="mcpBroker",tool=""} 1.0' in text
    assert 'method="other",outcome="rpc_error"' in text
    assert "xxx" not in text


def test_without_envoy_there_are_no_calls() -> None:
    assert "mcpgw_requests_total{" not in rendered(*translate(""))


def test_outcomes() -> None:
    codes = ("200", "202", "404", "401", "502", "503", "504", "0", "-")
    expected = ["ok", "ok", "rejected", "rejected", "unavailable", "unavailable", "timeout", "rejected", "rejected"]
    assert [outcome_of(code) for code in codes] == expected
