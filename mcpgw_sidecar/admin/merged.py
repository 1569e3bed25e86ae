"""Metrics of two counters as one: the sidecar counts what it answers, Envoy what it carries.

A call in a batch and a call alone have the same labels, and a scrape may hold each series once:
their values are added up. Of two histograms with other bounds, each bound of either holds what
both are known to have below it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from prometheus_client.core import Metric, Sample
from prometheus_client.registry import Collector

_Labels = tuple[tuple[str, str], ...]


class Merged(Collector):
    """Families of one name are one family, and samples of one name and labels one sample."""

    def __init__(self, families: Iterable[Metric]) -> None:
        sources: dict[str, list[Metric]] = defaultdict(list)
        for family in families:
            sources[family.name].append(family)
        self._families = [_merged(of_name) for of_name in sources.values()]

    def collect(self) -> Iterable[Metric]:
        """The merged families."""
        return self._families


def _merged(families: list[Metric]) -> Metric:
    first = families[0]
    if len(families) == 1:
        return first
    merged = Metric(first.name, first.documentation, first.type, first.unit)
    values: dict[tuple[str, _Labels], float] = defaultdict(float)
    buckets: dict[tuple[str, _Labels], list[dict[str, float]]] = defaultdict(list)
    for family in families:
        of_family: dict[tuple[str, _Labels], dict[str, float]] = defaultdict(dict)
        for sample in family.samples:
            labels = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
            if "le" in sample.labels:
                of_family[sample.name, labels][sample.labels["le"]] = sample.value
            else:
                values[sample.name, labels] += sample.value
        for key, histogram in of_family.items():
            buckets[key].append(histogram)
    for (name, labels), histograms in buckets.items():
        for bound, value in _sum(histograms).items():
            merged.samples.append(Sample(name, {**dict(labels), "le": bound}, value))
    merged.samples += [Sample(name, dict(labels), value) for (name, labels), value in values.items()]
    return merged


def _sum(histograms: list[dict[str, float]]) -> Mapping[str, float]:
    """Cumulative buckets of several histograms, by the text of each bound, lowest first."""
    bounds = sorted({bound for histogram in histograms for bound in histogram}, key=float)
    total: dict[str, float] = {}
    for bound in bounds:
        below = ([value for other, value in each.items() if float(other) <= float(bound)] for each in histograms)
        total[bound] = sum(max(values, default=0.0) for values in below)
    return total
