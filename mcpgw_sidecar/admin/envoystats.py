"""Envoy's counters of the calls that it carried, as metrics of ours.

Envoy counts them (envoy/listener.py, `_counters`) because the sidecar never sees an answer. Its text comes in Prometheus form;
`translate` gives the families of interface.md, so that one scrape of the sidecar tells everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

CALLS = "envoy_mcpgw_calls"
DURATION = "envoy_mcpgw_call_duration"
_OUTCOMES = {"503": "unavailable", "504": "timeout", "502": "unavailable", "408": "timeout", "0": "rejected"}


def translate(text: str) -> Iterator[Metric]:
    """The families `mcpgw_requests` (calls carried by Envoy) and `mcpgw_request_duration_seconds`."""
    calls = CounterMetricFamily(
        "mcpgw_requests", "Requests by method, server, tool and outcome", labels=["method", "server", "tool", "outcome"]
    )
    durations = HistogramMetricFamily(
        "mcpgw_request_duration_seconds",
        "From a call's first byte to its answer's last",
        labels=["method", "server", "tool"],
    )
    buckets: dict[tuple[str, str], list[tuple[str, float]]] = {}
    sums: dict[tuple[str, str], float] = {}
    for name, labels, value in _samples(text):
        key = (labels.get("server", ""), labels.get("tool", ""))
        if name == f"{CALLS}_total":  # the parser gives every counter this ending
            outcome = outcome_of(labels.get("code", ""))
            calls.add_metric(["tools/call", *key, outcome], value)
        elif name == f"{DURATION}_bucket":
            le = labels["le"]
            bound = le if le == "+Inf" else f"{float(le) / 1000:g}"
            buckets.setdefault(key, []).append((bound, value))
        elif name == f"{DURATION}_sum":
            sums[key] = value / 1000
    for key, found in buckets.items():
        durations.add_metric(["tools/call", *key], buckets=found, sum_value=sums.get(key, 0.0))
    yield calls
    yield durations


def outcome_of(code: str) -> str:
    """The outcome of a call that Envoy carried, by its HTTP status."""
    return _OUTCOMES.get(code) or ("ok" if code.startswith("2") else "rejected")


def _samples(text: str) -> Iterable[tuple[str, dict[str, str], float]]:
    lines = "\n".join(line for line in text.splitlines() if "mcpgw_call" in line)
    for family in text_string_to_metric_families(lines + "\n"):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value
