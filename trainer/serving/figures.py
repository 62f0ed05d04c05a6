"""Figures: counts the server's metrics, and writes them in Prometheus' format."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from torch import Tensor

FORMAT = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Figures:
    """The server's metrics. Any thread may change them."""

    def __init__(self) -> None:
        self.cut_off = 0
        """The number of requests that were cut off when the server stopped."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "tempering_requests",
            "Requests that were answered, by route and status.",
            ("route", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "tempering_request_seconds",
            "Seconds from a request's arrival to the end of its answer.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "tempering_first_token_seconds",
            "Seconds from a request's arrival to its first generated token.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.texts_per_call = Histogram(
            "tempering_texts_per_call",
            "Texts that the model processed in one call.",
            buckets=TEXTS,
            registry=self.registry,
        )
        self.read_tokens = Counter(
            "tempering_read_tokens", "Tokens of prompts and inputs.", registry=self.registry
        )
        self.generated_tokens = Counter(
            "tempering_generated_tokens", "Tokens that were generated.", registry=self.registry
        )
        self.given_up = Counter(
            "tempering_given_up",
            "Requests that ended early because the client left or stopped reading, by cause.",
            ("cause",),
            registry=self.registry,
        )

    def count_read_tokens(
        self, model: object, arguments: object, keyword_arguments: Mapping[str, object]
    ) -> None:
        """Count the tokens that the model reads; torch calls this hook before each model call."""
        ids = keyword_arguments.get("input_ids")
        if isinstance(ids, Tensor):
            self.read_tokens.inc(ids.numel())

    def watch(self, name: str, sentence: str, value: Callable[[], float]) -> None:
        """Add a gauge; its value is read whenever the metrics are requested."""
        Gauge(f"tempering_{name}", sentence, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
