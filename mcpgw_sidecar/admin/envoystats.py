"""Translates Envoy's counters of calls into the metrics of the sidecar.

Envoy counts the calls (envoy/filters.py, `counters`), because the sidecar never sees an answer.
Its statistics come in Prometheus text format; `translate` makes the families of interface.md, so
that a scrape of the sidecar has all metrics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from mcpgw_sidecar.envoy.contract import ANSWER
from mcpgw_sidecar.envoy.flags import OF_FLAGS, OF_STATUS, TOO_MANY, UNCOUNTED
from mcpgw_sidecar.model.reasons import LIMITED, OUTCOMES

CALLS = "envoy_mcpgw_calls"
DURATION = "envoy_mcpgw_call_duration"
_Labels = tuple[str, str, str, str]
_NAMES = ("method", "server", "tool", "outcome")


def translate(text: str) -> Iterator[Metric]:
    """The metric families of the calls that Envoy carried.

    These are `mcpgw_requests`, `mcpgw_memo_lookups` and `mcpgw_request_duration_seconds`.
    """
    counts: dict[_Labels, float] = defaultdict(float)
    lookups: dict[str, float] = defaultdict(float)
    sums: dict[_Labels, float] = defaultdict(float)
    buckets: dict[_Labels, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for name, labels, value in _samples(text):
        # Several status codes are one outcome: add them up, because a series may occur only once.
        method, server, tool = (_tag_value(labels.get(label)) for label in ("method", "server", "tool"))
        key = (method, server, tool, outcome_of(labels.get(ANSWER, "")))
        if name == f"{CALLS}_total":  # the parser adds this suffix to every counter
            counts[key] += value
            if "lookup" in labels and method == "tools/call":
                lookups[_tag_value(labels["lookup"]) or "hit"] += value
        elif name == f"{DURATION}_sum":
            sums[key] += value / 1000
        elif name == f"{DURATION}_bucket":
            upper_bound = labels["le"]
            buckets[key][upper_bound if upper_bound == "+Inf" else f"{float(upper_bound) / 1000:g}"] += value
    calls = CounterMetricFamily("mcpgw_requests", "Requests by method, server, tool and outcome", labels=_NAMES)
    for key, value in counts.items():
        calls.add_metric(key, value)
    durations = HistogramMetricFamily(
        "mcpgw_request_duration_seconds", "From a request's first byte to its answer's last", labels=_NAMES
    )
    for key, counts_by_bound in buckets.items():
        durations.add_metric(key, buckets=list(counts_by_bound.items()), sum_value=sums[key])
    memo_lookups = CounterMetricFamily("mcpgw_memo_lookups", "Calls by what the route memo knew of them", labels=["result"])
    for result, value in lookups.items():
        memo_lookups.add_metric([result], value)
    yield calls
    yield memo_lookups
    yield durations


def _tag_value(value: str | None) -> str:
    """The value of a tag; Envoy writes "-" for a missing header."""
    return "" if value in {None, "-"} else str(value)


def outcome_of(answer: str) -> str:
    """The outcome of a call that Envoy carried.

    It follows from the reason of a server's failure (failed.lua), from the HTTP status, and from
    Envoy's response flags; `answer` has the three (contract.ANSWER).
    """
    code, flags, reason = (_tag_value(value) for value in [*answer.split(" "), "-", "-"][:3])
    if reason:
        return OUTCOMES.get(reason, "unavailable")
    of_answer = set(flags.split(","))
    if not of_answer.isdisjoint([*TOO_MANY, *UNCOUNTED]):
        return OUTCOMES[LIMITED]
    if not code.startswith("2"):
        return OF_STATUS.get(code, "rejected")
    return next((OUTCOMES[found] for flags, found in OF_FLAGS if not of_answer.isdisjoint(flags)), "ok")


def _samples(text: str) -> Iterable[tuple[str, dict[str, str], float]]:
    lines = "\n".join(line for line in text.splitlines() if "mcpgw_call" in line)
    for family in text_string_to_metric_families(lines + "\n"):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value
