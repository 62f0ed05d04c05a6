"""GenerationSettings: the settings of text generation."""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal

from trainer.errors import InputError
from trainer.foreign.numbers import is_number

SAMPLING_SETTINGS = ("top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Settings that have no effect with a temperature of 0."""
BEAM_SETTINGS = ("length_penalty", "early_stopping")
"""Settings that have no effect without a beam search."""
WHOLE_TEXT_SETTINGS = (
    *("num_beams", "no_repeat_ngram_size", "min_new_tokens"),
    *("typical_p", "epsilon_cutoff", "eta_cutoff"),
)
"""Settings that `Decoding` does not support. Texts cannot be streamed with them."""

WHOLE_NUMBERS: Mapping[str, float] = {
    **dict.fromkeys(("max_new_tokens", "batch_size", "top_k"), 1),
    **dict.fromkeys(("num_beams", "num_return_sequences"), 1),
    **dict.fromkeys(("min_new_tokens", "no_repeat_ngram_size"), 0),
    "seed": -math.inf,
}
"""Settings that are whole numbers -> the smallest accepted value."""
RANGES: Mapping[str, tuple[float, float, str]] = {
    "repetition_penalty": (1e-6, 1e6, "a number from 0.000001 to 1,000,000"),
    "encoder_repetition_penalty": (1e-6, 1e6, "a number from 0.000001 to 1,000,000"),
    "length_penalty": (-50, 50, "a number from -50 to 50"),
    "guidance_scale": (-1e6, 1e6, "a number from -1,000,000 to 1,000,000"),
}
"""Setting -> smallest and largest value, and both in words.

Beyond them, products and powers overflow, which would look like a fault of the model.
"""
LEAST: Mapping[float, str] = {0: " from 0", 1: " above 0"}
"""Smallest accepted value -> its description in an error."""


@dataclass(frozen=True)
class GenerationSettings:
    """The settings of text generation, with causal language models and with encoder-decoders.

    Raises InputError for invalid values, and for settings that have no effect because of others.
    """

    max_new_tokens: int = 128
    """The maximum number of tokens to generate; the model's number of positions limits it, too."""
    min_new_tokens: int = 0
    """The minimum number of tokens to generate."""
    temperature: float = 0.0
    """The divisor of the logits before sampling; 0 always chooses the most probable token."""
    top_k: int | None = None
    """Sample from this number of most probable tokens; null: from all tokens."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens with at least this total probability."""
    min_p: float = 0.0
    """Sample from tokens whose probability is at least this fraction of the highest probability."""
    typical_p: float = 1.0
    """Sample from the most typical tokens with this total probability (Meister et al., 2022)."""
    epsilon_cutoff: float = 0.0
    """Sample from tokens with at least this probability."""
    eta_cutoff: float = 0.0
    """The same as epsilon_cutoff, with a threshold that decreases with the entropy (Hewitt et al.,
    2022).
    """
    repetition_penalty: float = 1.0
    """Values above 1 make tokens that are already in the text less probable."""
    no_repeat_ngram_size: int = 0
    """No sequence of this number of tokens may occur twice in a text; 0 sets no limit."""
    num_beams: int = 1
    """The number of beams; above 1, texts are found by a beam search."""
    length_penalty: float = 1.0
    """A beam search divides the log-probability of a text by the text's length to this power."""
    early_stopping: bool | Literal["never"] = False
    """When a beam search stops. true: when num_beams texts have ended; false: when a better text is
    unlikely; never: when a better text is impossible.
    """
    num_return_sequences: int = 1
    """The number of texts for each prompt; above 1, it requires beams or a temperature above 0."""
    stop: list[str] = field(default_factory=list)
    """Strings that end a text when they are generated; they are removed from the output."""
    seed: int = 0
    """The seed of sampling, which also depends on the prompt's number and the token's position."""
    batch_size: int = 32
    """The number of prompts in a batch; the output does not depend on it."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if getattr(value, "shape", None) == () and hasattr(value, "item"):  # numpy or torch
                value = value.item()
            if each.name in WHOLE_NUMBERS and isinstance(value, float) and value.is_integer():
                value = int(value)
            object.__setattr__(self, each.name, value)
        for name, least in WHOLE_NUMBERS.items():
            accepted = "a whole number" + LEAST.get(least, "")
            self._require(name, partial(_is_whole, least=least), accepted)
        self._require("temperature", lambda v: v >= 0, "a number of 0 or more")
        for name in ("length_penalty", "repetition_penalty"):
            least, most, accepted = RANGES[name]
            self._require(name, partial(is_within, least=least, most=most), accepted)
        for name in ("top_p", "typical_p"):
            self._require(name, lambda v: 0 < v <= 1, "a number above 0, up to 1")
        for name in ("min_p", "epsilon_cutoff", "eta_cutoff"):
            self._require(name, lambda v: 0 <= v <= 1, "a number from 0 to 1")
        if self.early_stopping not in (True, False, "never"):
            found = f"found {self.early_stopping!r}"
            raise InputError(f"generation.early_stopping: {found}; accepted: true, false, never")
        # a text would be read as its characters
        listed = isinstance(self.stop, (Sequence, Set)) and not isinstance(self.stop, (str, bytes))
        if not listed or not all(isinstance(text, str) and text for text in self.stop):
            accepted = "accepted: texts, none empty" if listed else "accepted: a list of texts"
            raise InputError(f"generation.stop: found {self.stop!r:.60}; {accepted}")
        object.__setattr__(self, "stop", list(self.stop))
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        """Raise InputError for settings that have no effect, or that contradict each other."""
        samples = self.temperature > 0
        if not samples:
            self._require_unset(
                SAMPLING_SETTINGS, "temperature=0, which draws nothing", "a temperature > 0"
            )
        if self.num_beams == 1:
            self._require_unset(BEAM_SETTINGS, "num_beams=1", "with num_beams above 1")
        limit = self.num_beams if self.num_beams > 1 else None if samples else 1
        if limit is not None and self.num_return_sequences > limit:
            found = f"found {self.num_return_sequences} with num_beams={self.num_beams}"
            accepted = f"up to {limit}" + (", or a temperature above 0" if limit == 1 else "")
            raise InputError(f"generation.num_return_sequences: {found}; accepted: {accepted}")
        if self.min_new_tokens > self.max_new_tokens:
            found = f"found {self.min_new_tokens} with max_new_tokens={self.max_new_tokens}"
            raise InputError(
                f"generation.min_new_tokens: {found}; accepted: up to {self.max_new_tokens}"
            )

    @property
    def copies(self) -> int:
        """The number of times that each prompt is in the batch.

        It is 1 for a beam search, which itself finds several texts for a prompt.
        """
        return 1 if self.num_beams > 1 else self.num_return_sequences

    @property
    def is_plain(self) -> bool:
        """Whether `Decoding` supports these settings, so that texts can be streamed."""
        return all(getattr(self, name) == DEFAULTS[name] for name in WHOLE_TEXT_SETTINGS)

    def hub_options(self) -> dict[str, Any]:
        """The settings with transformers' names, for prompts that occur `copies` times.

        `stop` is left out. None means no limit, as in `HubSettings`.
        """
        samples = self.temperature > 0
        others = {"temperature", "stop", "batch_size", "seed"} | (
            set() if samples else {*SAMPLING_SETTINGS}
        )
        found = {name: getattr(self, name) for name in DEFAULTS if name not in others}
        found["num_return_sequences"] //= self.copies
        if samples:
            found |= {"do_sample": True, "temperature": self.temperature}
        return found

    def _require_unset(self, names: tuple[str, ...], beside: str, accepted: str) -> None:
        for name in names:
            if (value := getattr(self, name)) != DEFAULTS[name]:
                raise InputError(
                    f"generation.{name}: found {value!r} with {beside}; accepted: {accepted}"
                )

    def _require(self, name: str, holds: Callable[[float], bool], accepted: str) -> None:
        value = getattr(self, name)
        if value is None and name == "top_k":
            return
        if not is_number(value) or not holds(value):
            raise InputError(f"generation.{name}: found {value!r:.60}; accepted: {accepted}")


def is_within(value: float, least: float, most: float) -> bool:
    """Whether a number is in a range of RANGES."""
    return least <= value <= most


def _is_whole(value: float, least: float) -> bool:
    return value >= least and value == int(value)


DEFAULTS = {each.name: each.default for each in fields(GenerationSettings)}
