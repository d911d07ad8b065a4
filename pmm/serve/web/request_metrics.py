"""What Prometheus is told: requests by status, their time, items, writing calls, models.

Labels are routes, never what a client typed, so that nobody makes more of them.
"""

import logging
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pmm.serve.serving import Serving

logger = logging.getLogger(__name__)

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_METHODS = ("GET", "POST", "PUT", "DELETE")
SAFE_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
"""Of every answer."""


class ServerMetrics:
    """The numbers of one server."""

    def __init__(self, serving: Serving) -> None:
        """Begin to count."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "pmm_requests", "Requests.", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "pmm_request_seconds",
            "From the head of a request to the end of its answer.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_hand = Gauge("pmm_requests_in_hand", "Requests now.", registry=self.registry)
        self.writes = Counter(
            "pmm_item_writes", "Items put and withdrawn.", ("kind",), registry=self.registry
        )
        self.put_seconds = Histogram(
            "pmm_put_seconds",
            "From an item's form to being recommended and on the disk.",
            buckets=(*_SECONDS, 30),
            registry=self.registry,
        )
        self.swaps = Counter("pmm_swaps", "Models swapped in.", ("kind",), registry=self.registry)
        self.registry.register(_OfItems(serving))
        ProcessCollector(registry=self.registry)


class _OfItems(Collector):
    """Numbers that are looked up when they are asked for."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def collect(self) -> Iterator[Metric]:
        """The items and the model of now."""
        serving = self._serving
        yield GaugeMetricFamily("pmm_ready", "Whether it answers.", int(serving.is_ready))
        yield GaugeMetricFamily("pmm_log_bytes", "Of the log of items.", serving.log.size)
        yield GaugeMetricFamily("pmm_items_added", "Live items of the log.", len(serving.log))
        if serving.is_ready:
            served = serving.current
            offered = int(served.model.state.offered_N.sum())
            yield GaugeMetricFamily("pmm_items_offered", "Items that may come.", offered)
            info = GaugeMetricFamily("pmm_model_info", "The model.", labels=["version", "name"])
            info.add_metric([served.version, served.name], 1)
            yield info


class Measured:
    """Counts and times what an app answers, and notes where it fails."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        """Stand around an app."""
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, is_whole = time.perf_counter(), 0, False
        # Ids in a path may hold an encoded slash: routes are found by the path as it was sent.
        scope["path"] = scope["raw_path"].decode("latin-1")
        scope.setdefault("state", {})

        async def noted(message: Message) -> None:
            nonlocal status, is_whole
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_headers(scope)]
            is_whole = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        self._metrics.in_hand.inc()
        try:
            await self._app(scope, receive, noted)
        except TimeoutError:  # the client did not take the answer
            status = status or 499
            raise
        except Exception:
            logger.exception("a fault of the server")
            if not is_whole:
                raise
        finally:
            self._metrics.in_hand.dec()
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(method, route, str(status)).inc()
            taken = time.perf_counter() - started
            self._metrics.seconds.labels(method, route).observe(taken)


def _headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    headers = dict(SAFE_HEADERS)
    if model := scope["state"].get("model"):
        headers["x-pmm-model"] = model
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
