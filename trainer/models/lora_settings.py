"""LoRASettings: which layers get adapters, and of what size, with one sentence under each field."""

import math
from dataclasses import dataclass, field

from trainer.errors import InputError


@dataclass(frozen=True)
class LoRASettings:
    """How to adapt a model. Refuses what makes no sense when it is made; imports nothing heavy."""

    rank: int | None = None
    """Width of each adapter; null: none, the weights themselves are trained."""
    alpha: float | None = None
    """What an adapter's output is multiplied by, over rank; null: twice the rank."""
    dropout: float = 0.0
    """Share of an adapter's input that is dropped in training."""
    targets: list[str] = field(default_factory=list)
    """Names, or ends of them, of layers to adapt (q_proj); empty: every linear one of the body."""
    base_name: str | None = None
    """What adapters call their base (a hub id or folder that PEFT finds); null: model.path."""
    merge: bool = False
    """Whether model/ is a whole model, the adapters added to its weights."""

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise InputError(f"model.lora.rank: found {self.rank}; accepted: 1 or more, null")
        if self.alpha is not None and not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise InputError(f"model.lora.alpha: found {self.alpha}; accepted: a number above 0")
        if not 0 <= self.dropout < 1:
            raise InputError(f"model.lora.dropout: found {self.dropout}; accepted: 0 to below 1")
        given = [name for name in ("alpha", "dropout", "targets") if getattr(self, name)]
        if self.rank is None and given:
            accepted = "accepted: with model.lora.rank, which adds adapters"
            raise InputError(f"model.lora.{given[0]}: found it without a rank; {accepted}")
