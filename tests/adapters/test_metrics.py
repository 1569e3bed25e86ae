"""Envoy's counters as metrics of ours."""

from __future__ import annotations

import re

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from mcpgw_sidecar.admin.envoystats import outcome_of, translate
from mcpgw_sidecar.admin.merged import Merged
from mcpgw_sidecar.observability.metrics import Metrics

ENVOY = """\
# TYPE envoy_mcpgw_calls counter
envoy_mcpgw_calls{method="tools/call",server="a",tool="t",answer="200 - -"} 3
envoy_mcpgw_calls{method="tools/call",server="a",tool="t",answer="202 - -"} 1
envoy_mcpgw_calls{method="prompts/get",server="a",tool="-",answer="503 - -"} 2
# TYPE envoy_mcpgw_call_duration histogram
envoy_mcpgw_call_duration_bucket{method="tools/call",server="a",tool="t",answer="200 - -",le="0.5"} 1
envoy_mcpgw_call_duration_bucket{method="tools/call",server="a",tool="t",answer="200 - -",le="5"} 3
envoy_mcpgw_call_duration_bucket{method="tools/call",server="a",tool="t",answer="200 - -",le="+Inf"} 3
envoy_mcpgw_call_duration_bucket{method="tools/call",server="a",tool="t",answer="202 - -",le="0.5"} 1
envoy_mcpgw_call_duration_bucket{method="tools/call",server="a",tool="t",answer="202 - -",le="5"} 1
envoy_mcpgw_call_duration_bucket{method="tools/call",server="a",tool="t",answer="202 - -",le="+Inf"} 1
envoy_mcpgw_call_duration_sum{method="tools/call",server="a",tool="t",answer="200 - -"} 6
envoy_mcpgw_call_duration_sum{method="tools/call",server="a",tool="t",answer="202 - -"} 0.4
envoy_mcpgw_call_duration_count{method="tools/call",server="a",tool="t",answer="200 - -"} 3
envoy_other{x="y"} 1
"""


def rendered(*families: object) -> str:
    registry = CollectorRegistry(auto_describe=False)
    collector: Collector = Merged(families)  # type: ignore[arg-type]
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


@pytest.mark.duty("metrics.requests")
def test_a_series_that_both_count_stands_there_once() -> None:
    """A call in a batch and a call alone; Envoy's histogram has bounds of its own."""
    metrics = Metrics()
    metrics.answered(method="tools/call", server="a", tool="t", outcome="ok", seconds=0.02)
    text = rendered(*metrics.registry.collect(), *translate(ENVOY))
    labels = 'method="tools/call",outcome="ok",server="a",tool="t"'
    assert f"mcpgw_requests_total{{{labels}}} 5.0" in text
    assert f"mcpgw_request_duration_seconds_count{{{labels}}} 5.0" in text
    buckets = re.findall(rf'mcpgw_request_duration_seconds_bucket{{le="([^"]*)",{labels}}} (\S+)', text)
    values = {bound: float(value) for bound, value in buckets}
    assert len(values) == len(buckets)
    assert [values["0.0005"], values["0.005"], values["0.01"], values["0.025"], values["+Inf"]] == [2, 4, 4, 5, 5]
    assert list(values.values()) == sorted(values.values())
    samples = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(samples) == len(set(samples))


def test_an_answer_that_broke_off_after_its_start_is_no_success() -> None:
    flags = ("-", "DC", "UC", "UPE", "SI", "UT,UC")
    assert [outcome_of(f"200 {each} -") for each in flags] == ["ok", "ok", "broken", "broken", "timeout", "broken"]
    assert outcome_of("503 UC -") == "unavailable"
    assert [outcome_of(f"200 - {reason}") for reason in ("Unauthorized", "RpcError")] == ["unauthorized", "rpc_error"]
