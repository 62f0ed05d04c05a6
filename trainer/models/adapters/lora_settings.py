"""LoRASettings: the settings of adapters, each with a description under its field."""

import math
from dataclasses import dataclass, field
from typing import Literal

from trainer.errors import InputError
from trainer.option_types import Options

INITS = ("default", "pissa", "loftq")


@dataclass(frozen=True)
class LoRASettings(Options, where="model.lora"):
    """The settings under `model.lora`. The constructor raises InputError for invalid values."""

    rank: int | None = None
    """The rank of each adapter; null: there are no adapters, and all weights are trained."""
    alpha: float | None = None
    """The factor alpha: an adapter's output is multiplied by alpha / rank, or with rslora by
    alpha / sqrt(rank). null: twice the rank, or 8 with rslora."""
    rslora: bool = False
    """Whether alpha is divided by sqrt(rank) instead of the rank (rsLoRA; Kalajdzievski, 2023)."""
    dora: bool = False
    """Whether the weights of each output are trained as a norm and a direction (DoRA; Liu et al.,
    2024). Steps take more time and memory. vLLM cannot load such adapters: set merge to true for
    it.
    """
    init: Literal["default", "pissa", "loftq"] = "default"
    """The initialization of adapters. default: one matrix is random, the other is zero. pissa: from
    the largest singular values of the layer's weight (Meng et al., 2024); it is saved as an
    ordinary adapter of twice the rank. Neither changes the initial outputs. loftq: from the largest
    singular values of the rounding errors of model.quantization (Li et al., 2023).
    """
    ia3: bool = False
    """Whether to use (IA)^3 (Liu et al., 2022) instead of LoRA: the outputs of the targets, or the
    inputs of those listed in feedforward, are multiplied by trained numbers, one for each channel.
    It needs no rank.
    """
    feedforward: list[str] | None = None
    """With ia3, the targets whose inputs, instead of outputs, are multiplied. null: PEFT's default
    for the model's family; []: none."""
    dropout: float = 0.0
    """The dropout probability of an adapter's input in training."""
    targets: list[str] = field(default_factory=list)
    """The layers to adapt, by name or suffix (q_proj). Empty: with ia3, PEFT's default for the
    model's family; otherwise every linear layer of the body, except the experts of a mixture, which
    must be listed (experts.gate_up_proj, experts.down_proj).
    """
    modules_to_save: list[str] = field(default_factory=list)
    """Modules, by name or suffix (embed_tokens), that are trained and saved in full with the
    adapters. Heads and randomly initialized modules always are. vLLM cannot load such adapters:
    set merge to true for it.
    """
    trainable_tokens: list[int | str] = field(default_factory=list)
    """Tokens, as ids or quoted texts, whose embeddings are trained with the adapters (and their
    output weights, unless these are tied to the embeddings). PEFT can load such adapters; vLLM
    cannot: set merge to true for it.
    """
    base_name: str | None = None
    """The base model that the adapter's files name and PEFT loads: a hub id or a folder; null:
    model.path."""
    merge: bool = False
    """Whether the folder model/ gets a whole model with the adapters merged into its weights."""

    @property
    def adds_adapters(self) -> bool:
        """Whether these settings add adapters."""
        return self.ia3 or self.rank is not None

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise InputError(f"model.lora.rank: found {self.rank}; accepted: 1 or more, null")
        if self.alpha is not None and not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise InputError(f"model.lora.alpha: found {self.alpha}; accepted: a number above 0")
        if self.init not in INITS:
            raise InputError(f"model.lora.init: found {self.init!r}; accepted: {', '.join(INITS)}")
        if self.dora and self.init != "default":
            raise InputError(f"model.lora.init: found {self.init} with dora; accepted: default")
        if not 0 <= self.dropout < 1:
            accepted = "at least 0 and below 1"
            raise InputError(f"model.lora.dropout: found {self.dropout}; accepted: {accepted}")
        if self.ia3:
            self._refuse_with_ia3()
        elif self.feedforward is not None:
            accepted = "accepted: with model.lora.ia3=true"
            raise InputError(f"model.lora.feedforward: found it without ia3; {accepted}")
        given = [
            name
            for name in (
                "alpha",
                "rslora",
                "dora",
                "dropout",
                "targets",
                "modules_to_save",
                "trainable_tokens",
            )
            if getattr(self, name)
        ]
        given += ["init"] * (self.init != "default")
        if not self.adds_adapters and given:
            accepted = "accepted: with model.lora.rank, which adds adapters"
            raise InputError(f"model.lora.{given[0]}: found it without a rank; {accepted}")

    def _refuse_with_ia3(self) -> None:
        """Refuse settings that only LoRA has."""
        for name, plain, accepted in (
            ("rank", None, "null"),
            ("alpha", None, "null"),
            ("rslora", False, "false"),
            ("dora", False, "false"),
            ("init", "default", "default"),
            ("dropout", 0, "0"),
            ("trainable_tokens", [], "[]"),
        ):
            if (found := getattr(self, name)) != plain:
                text = f"found {found} with ia3; accepted: {accepted}"
                raise InputError(f"model.lora.{name}: {text}")
