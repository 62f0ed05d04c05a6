"""GenerationSettings: how a model goes on with a text, with one sentence under each field."""

from collections.abc import Callable
from dataclasses import dataclass, field

from trainer.errors import InputError
from trainer.foreign_numbers import is_number


@dataclass(frozen=True)
class GenerationSettings:
    """How to generate. Refuses what makes no sense when it is made; imports nothing heavy."""

    max_new_tokens: int = 128
    """Tokens after which a text ends in any case; so it does where the model has no positions."""
    temperature: float = 0.0
    """What the logits are divided by before one is drawn; 0: the most probable token, always."""
    top_k: int | None = None
    """Draw from so many most probable tokens; null: from all."""
    top_p: float = 1.0
    """Draw from the fewest most probable tokens that have this much probability together."""
    min_p: float = 0.0
    """Draw from tokens that are at least so many times as probable as the most probable one."""
    repetition_penalty: float = 1.0
    """Above 1, makes tokens that are in the text less probable."""
    stop: list[str] = field(default_factory=list)
    """Texts that end a generation; they are not part of it."""
    seed: int = 0
    """What the draws are a function of, with the row and the place in it."""
    batch_size: int = 32
    """Prompts that are gone on with at a time; what comes out does not depend on it."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size", "top_k"):
            self._require(name, lambda v: v > 0 and v == int(v), "a whole number above 0")
        self._require("temperature", lambda v: v >= 0, "a number of 0 or more")
        self._require("top_p", lambda v: 0 < v <= 1, "a number above 0, up to 1")
        self._require("min_p", lambda v: 0 <= v <= 1, "a number from 0 to 1")
        self._require("repetition_penalty", lambda v: v > 0, "a number above 0")
        for name, idle in (("top_k", None), ("top_p", 1), ("min_p", 0)):
            value = getattr(self, name)
            if self.temperature == 0 and value != idle:
                found = f"found {value!r} with temperature=0, which draws nothing"
                raise InputError(f"generation.{name}: {found}; accepted: a temperature above 0")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise InputError(f"generation.stop: found {self.stop!r}; accepted: texts, none empty")

    def _require(self, name: str, holds: Callable[[float], bool], accepted: str) -> None:
        value = getattr(self, name)
        if value is None and name == "top_k":
            return
        if not is_number(value) or not holds(value):
            raise InputError(f"generation.{name}: found {value!r}; accepted: {accepted}")
