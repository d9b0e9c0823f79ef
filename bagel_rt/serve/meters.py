"""What a server counts, for Prometheus: GET /metrics. One registry per application."""

from __future__ import annotations

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Meters:
    """Counters, gauges and histograms; names begin with bagel_rt_."""

    def __init__(self) -> None:
        self.registry = here = CollectorRegistry()
        self.requests = Counter("bagel_rt_requests", "answered requests", ["route", "status"], registry=here)
        self.seconds = Histogram(
            "bagel_rt_request_seconds",
            "from a request's headers to its answer's end",
            ["route"],
            buckets=SECONDS,
            registry=here,
        )
        self.refused = Counter("bagel_rt_refused", "requests that were not let in", ["why"], registry=here)
        self.cancelled = Counter("bagel_rt_cancelled", "requests whose client went away", registry=here)
        self.queued = Histogram("bagel_rt_queue_seconds", "waiting for a worker", buckets=SECONDS, registry=here)
        self.first_token = Histogram(
            "bagel_rt_first_token_seconds",
            "from the beginning of an answer's work to its first token",
            buckets=SECONDS,
            registry=here,
        )
        self.tokens = Counter("bagel_rt_tokens", "tokens written", registry=here)
        self.steps = Counter("bagel_rt_steps", "denoising steps taken", registry=here)
        self.pictures = Counter("bagel_rt_pictures", "pictures drawn", registry=here)
        self.running = Gauge("bagel_rt_running", "requests that are being computed", registry=here)
        self.waiting = Gauge("bagel_rt_waiting", "requests that wait for a worker", registry=here)
        self.sessions = Gauge("bagel_rt_sessions", "conversations that are kept", registry=here)
        self.ready = Gauge("bagel_rt_ready", "1 when requests are taken", registry=here)
        self.free_tokens = Gauge("bagel_rt_cache_free_tokens", "tokens that the cache has room for", registry=here)
        memory = Gauge("bagel_rt_resident_bytes", "main memory of the process", registry=here)
        memory.set_function(lambda: psutil.Process().memory_info().rss)
