"""The metrics of interface.md that this process counts itself.

The configuration limits the number of label values. Envoy counts the calls through it, and
`admin.envoystats` reads these; `admin.status` makes the gauges for each scrape.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from mcpgw_sidecar.protocol.methods import KNOWN

# The library would add a second series to each counter and histogram.
disable_created_metrics()  # type: ignore[no-untyped-call]

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0)
_SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_HTTP_METHODS = frozenset({"GET", "DELETE"})  # a stream, or the end of a session, has no method of JSON-RPC


class Metrics:
    """One registry and its instruments."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "mcpgw_requests",
            "Requests by method, server, tool and outcome",
            ["method", "server", "tool", "outcome"],
            registry=self.registry,
        )
        self._durations = Histogram(
            "mcpgw_request_duration_seconds",
            "From a request's first byte to its answer's last",
            ["method", "server", "tool", "outcome"],
            buckets=_SLOW,
            registry=self.registry,
        )
        self.ext_proc = Histogram(
            "mcpgw_ext_proc_duration_seconds", "From a request body to its decision", buckets=_FAST, registry=self.registry
        )
        self.upstream = Histogram(
            "mcpgw_upstream_request_duration_seconds",
            "The broker's own requests to MCP servers",
            ["server"],
            buckets=_SLOW,
            registry=self.registry,
        )
        self.translated = Counter(
            "mcpgw_translated",
            "Requests that the broker carried to a server of the other era, by the client's",
            ["client", "server", "outcome"],
            registry=self.registry,
        )
        self._tokens = Counter(
            "mcpgw_token_exchanges",
            "Tokens of callers that were to become tokens of a server",
            ["server", "outcome"],
            registry=self.registry,
        )
        self.reloads = Counter("mcpgw_config_reloads", "Configuration loads", ["outcome"], registry=self.registry)
        self.last_reload = Gauge(
            "mcpgw_config_last_success_timestamp_seconds", "When the configuration last loaded", registry=self.registry
        )
        self.streams = Gauge("mcpgw_streams", "Open notification streams of clients", registry=self.registry)
        for outcome in ("ok", "failed"):
            self.reloads.labels(outcome)

    def asked(self, server: str, seconds: float) -> None:
        """Observe one request of the broker's own to a server."""
        self.upstream.labels(server).observe(seconds)

    def exchanged(self, server: str, outcome: str) -> None:
        """Count one exchange of a token: ok, refused or failed."""
        self._tokens.labels(server, outcome).inc()

    def answered(self, *, method: str, server: str, tool: str, outcome: str, seconds: float) -> None:
        """Count one request that the sidecar has answered itself; `tool` is in the catalog."""
        # A client may write anything as a method.
        method_label = method if method in KNOWN or method in _HTTP_METHODS else "other"
        labels = (method_label, server, tool, outcome)
        self._requests.labels(*labels).inc()
        self._durations.labels(*labels).observe(seconds)
