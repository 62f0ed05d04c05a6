"""Adapter: the description of a model's adapters, without their weights."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from trainer.stores.url import plain_path


@dataclass(frozen=True)
class Adapter:
    """The description of a model's adapters."""

    rank: int
    scaling: float
    """The factor of the adapters' outputs: alpha / rank, or with `rslora` alpha / sqrt(rank)."""
    dropout: float
    base: str
    """The path of the base model, absolute for a local one, or its hub id; it may be empty."""
    revision: str | None
    base_digest: str
    """A digest of some values of each adapted weight, equal for fp32 and bf16 copies of them"""
    base_name: str | None = None
    """The name of the base model in the adapter's folder, if it is not `base`."""
    bias: str = "none"
    """PEFT's setting for which biases are in `whole`: none, lora_only or all."""
    whole: tuple[str, ...] = ()
    """Parameters trained and saved in full: those of heads, and randomly initialized ones."""
    rslora: bool = False
    """Whether the adapter's config divides alpha by the square root of the rank."""
    init: str = "default"
    """The adapters' initialization: default, pissa or loftq."""
    kind: str = "lora"
    """lora (which includes DoRA) or ia3; with ia3 the rank is 0, and there is no scaling."""
    merge: bool = False
    """Whether a run saves its final model with the adapters merged."""

    def alpha_of(self, rank: int, scaling: float) -> float:
        """The alpha of a layer with this rank and scaling, rounded to 12 digits."""
        return float(f"{scaling * divisor(rank, self.rslora):.12g}")


def absolute_base(given: str | Path, subfolder: str = "") -> str:
    """The absolute path of a local base model, which may be given as a file:// URL or with a ~.

    The subfolder is appended to local paths and URLs. A hub id is returned unchanged, since the
    files of an adapter cannot store a subfolder.
    """
    path = str(given)
    local = Path(os.path.expanduser(plain_path(path)))
    if path and local.exists():
        return str((local / subfolder).resolve())
    return f"{path.rstrip('/')}/{subfolder}" if subfolder and "://" in path else path


def divisor(rank: int, rslora: bool) -> float:
    """The number by which alpha is divided: the rank, or with `rslora` its square root."""
    return math.sqrt(rank) if rslora else rank
