"""ServeSettings: the address and the limits of job=serve."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from trainer.errors import InputError
from trainer.foreign.numbers import is_number

LEAST = {
    "port": 0,
    "max_requests": 1,
    "max_inputs": 1,
    "max_running_texts": 1,
    "max_length": 2,
    "max_cache_tokens": 2,
    "max_read_tokens": 1,
    "max_body_bytes": 1,
}
"""The smallest accepted value of each integer setting."""
SECONDS = ("request_timeout", "client_timeout", "drain_timeout")


@dataclass(frozen=True)
class ServeSettings:
    """The address and the limits of job=serve. Raises InputError for invalid values."""

    host: str = "127.0.0.1"
    """The address to listen on; the default is reachable from this machine only."""
    port: int = 8000
    """The port; 0: use any free port, and print it in the first line."""
    name: str | None = None
    """The model's name for clients; null: use model.path."""
    max_requests: int = 512
    """The maximum number of requests at a time, waiting ones included; more get status 429."""
    max_inputs: int = 128
    """The maximum number of texts in a request."""
    max_running_texts: int = 256
    """The maximum number of texts that are generated at a time; further texts wait."""
    max_length: int | None = None
    """The maximum number of tokens of a text with its answer; null: use the number of the model's
    positions."""
    max_cache_tokens: int | None = None
    """The maximum size of running texts, in tokens (texts x longest length); null: use half of the
    memory."""
    max_read_tokens: int = 512
    """The maximum number of tokens of new prompts that are read between two tokens of running
    answers."""
    max_body_bytes: int = 2 * 2**20
    """The maximum size of a request's body, in bytes."""
    request_timeout: float = 600.0
    """The maximum number of seconds from a request's arrival to the end of its answer; a slower
    request ends with status 504."""
    client_timeout: float = 60.0
    """Seconds to receive a request's headers, to receive its body, and to wait for a client that
    reads slowly."""
    drain_timeout: float = 60.0
    """The number of seconds after SIGTERM in which accepted requests may finish."""
    tools: Literal["auto", "hermes", "llama", "mistral"] = "auto"
    """The model's format of tool calls; auto: use the format of its chat template."""

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is None and name in ("max_length", "max_cache_tokens"):
                continue
            is_whole = is_number(value) and value == int(value)
            self._require(name, lambda v: is_whole and v >= least, f"{least} or more")  # noqa: B023
        self._require("port", lambda v: v < 2**16, "0 to 65535")
        for name in SECONDS:
            self._require(name, lambda v: v > 0, "seconds above 0")
        if not self.host:
            raise InputError("serve.host: empty; accepted: an address, such as 127.0.0.1")

    def _require(self, name: str, is_valid: Callable[[float], bool], accepted: str) -> None:
        value = getattr(self, name)
        if not is_number(value) or not is_valid(value):
            raise InputError(f"serve.{name}: found {value!r}; accepted: {accepted}")
