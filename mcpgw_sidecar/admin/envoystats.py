"""Envoy's counters of the calls that it carried, as metrics of ours.

Envoy counts them (envoy/listener.py, `_counters`) because the sidecar never sees an answer. Its text comes in Prometheus form;
`translate` gives the families of interface.md, so that one scrape of the sidecar tells everything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

CALLS = "envoy_mcpgw_calls"
DURATION = "envoy_mcpgw_call_duration"
_Labels = tuple[str, str, str, str]
_NAMES = ("method", "server", "tool", "outcome")
_OUTCOMES = {"503": "unavailable", "504": "timeout", "502": "unavailable", "408": "timeout", "0": "rejected"}


def translate(text: str) -> Iterator[Metric]:
    """The families `mcpgw_requests` (calls carried by Envoy), `mcpgw_request_duration_seconds` and `mcpgw_memo_lookups`."""
    counts: dict[_Labels, float] = defaultdict(float)
    lookups: dict[str, float] = defaultdict(float)
    sums: dict[_Labels, float] = defaultdict(float)
    buckets: dict[_Labels, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for name, labels, value in _samples(text):
        # Several codes are one outcome: their numbers are added, a series may stand there only once.
        method, server, tool = (_said(labels.get(label)) for label in ("method", "server", "tool"))
        key = (method, server, tool, outcome_of(labels.get("code", "")))
        if name == f"{CALLS}_total":  # the parser gives every counter this ending
            counts[key] += value
            if "lookup" in labels and method == "tools/call":
                lookups[_said(labels["lookup"]) or "hit"] += value
        elif name == f"{DURATION}_sum":
            sums[key] += value / 1000
        elif name == f"{DURATION}_bucket":
            bound = labels["le"]
            buckets[key][bound if bound == "+Inf" else f"{float(bound) / 1000:g}"] += value
    calls = CounterMetricFamily("mcpgw_requests", "Requests by method, server, tool and outcome", labels=_NAMES)
    for key, value in counts.items():
        calls.add_metric(key, value)
    durations = HistogramMetricFamily(
        "mcpgw_request_duration_seconds", "From a request's first byte to its answer's last", labels=_NAMES
    )
    for key, found in buckets.items():
        durations.add_metric(key, buckets=list(found.items()), sum_value=sums[key])
    remembered = CounterMetricFamily("mcpgw_memo_lookups", "Calls by what the route memo knew of them", labels=["result"])
    for result, value in lookups.items():
        remembered.add_metric([result], value)
    yield calls
    yield remembered
    yield durations


def _said(value: str | None) -> str:
    """A tag's value; Envoy writes "-" for a header that was not there."""
    return "" if value in {None, "-"} else str(value)


def outcome_of(code: str) -> str:
    """The outcome of a call that Envoy carried, by its HTTP status."""
    return _OUTCOMES.get(code) or ("ok" if code.startswith("2") else "rejected")


def _samples(text: str) -> Iterable[tuple[str, dict[str, str], float]]:
    lines = "\n".join(line for line in text.splitlines() if "mcpgw_call" in line)
    for family in text_string_to_metric_families(lines + "\n"):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value
