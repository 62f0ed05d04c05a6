"""Kinds of rotary positions: plain, and scaled for longer texts in the ways that config.json names.

C channels a head; a wavelength is the number of tokens in which a pair of channels turns once.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.models.packing import Layout

if TYPE_CHECKING:
    from trainer.models.config import ModelConfig

NEEDED: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
"""Kind -> the numbers that it cannot do without."""

OPTIONAL = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
"""The numbers that yarn may have."""
LENGTH = "original_max_position_embeddings"
ANYWHERE = ("rope_type", "type", "rope_theta", LENGTH, "truncate", "finetuned")
"""Entries that any kind may have; the last says nothing about the positions."""


@dataclass(frozen=True)
class Rope:
    """How queries and keys turn with their positions (Su et al., 2021)."""

    channels: int
    theta: float = 10_000.0
    kind: str = "default"
    trained_length: int = 0
    """Tokens of the longest text before scaling"""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What the kind needs and may have"""
    truncate: bool = True
    """Whether yarn's ramp starts and ends at whole channels"""

    @property
    def longest(self) -> int:
        """Tokens of the longest text that the scaling is meant for."""
        return int(self.trained_length * max(1.0, self.numbers.get("factor", 1.0)))

    def turns(self, position_ids: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Cosines and sines, fp32 [T, C / 2], of position_ids [T]."""
        frequencies, scale = self._frequencies(position_ids.device), 1.0
        if self.kind == "dynamic":
            frequencies = self._dynamic(position_ids, layout)
        elif self.kind == "yarn":
            scale = self._yarn_temperature()
        angles = position_ids.float().unsqueeze(-1) * frequencies
        return angles.cos() * scale, angles.sin() * scale

    def _frequencies(self, device: torch.device) -> Tensor:
        """fp32 [C / 2], radians a token."""
        plain = 1.0 / self.theta ** _exponents(self.channels, device)
        match self.kind:
            case "linear":  # Chen et al., 2023: positions are interpolated
                return plain / self.numbers["factor"]
            case "llama3":
                return self._llama3(plain)
            case "yarn":
                return self._yarn(plain)
        return plain

    def _dynamic(self, position_ids: Tensor, layout: Layout) -> Tensor:
        """[T, C / 2]: a base that grows with the sequence beyond the trained length (NTK-aware)."""
        grid = layout.to_grid(position_ids + 1)
        lengths = grid.amax(1, keepdim=True).expand_as(grid)
        factor, channels = self.numbers["factor"], self.channels
        beyond = (layout.from_grid(lengths) / self.trained_length).clamp(min=1.0).unsqueeze(-1)
        growth = (factor * beyond - (factor - 1)) ** (channels / (channels - 2))
        return 1.0 / (self.theta * growth) ** _exponents(channels, position_ids.device)

    def _llama3(self, plain: Tensor) -> Tensor:
        """Llama 3.1's: short waves as they are, long ones interpolated, a blend between them."""
        numbers = self.numbers
        turns = self.trained_length * plain / (2 * math.pi)  # in a text of the trained length
        low, high = numbers["low_freq_factor"], numbers["high_freq_factor"]
        blend = ((turns - low) / (high - low)).clamp(0, 1)
        return plain * (blend + (1 - blend) / numbers["factor"])

    def _yarn(self, plain: Tensor) -> Tensor:
        """YaRN (Peng et al., 2023): as Llama 3.1's, but the blend is a ramp over the channels."""
        numbers, last = self.numbers, self.channels - 1
        low = self._channel_of(numbers.get("beta_fast") or 32.0)
        high = self._channel_of(numbers.get("beta_slow") or 1.0)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, last)
        pairs = torch.arange(len(plain), device=plain.device, dtype=torch.float32)
        blend = ((pairs - low) / (high - low if high != low else 0.001)).clamp(0, 1)
        return plain * (1 - blend) + plain / numbers["factor"] * blend

    def _channel_of(self, turns: float) -> float:
        """The pair of channels that turns so many times in a text of the trained length."""
        wavelength = self.trained_length / (turns * 2 * math.pi)
        return self.channels * math.log(wavelength) / (2 * math.log(self.theta))

    def _yarn_temperature(self) -> float:
        """What cosines and sines are scaled by, so that the attention gets no flatter."""
        numbers = self.numbers
        if numbers.get("attention_factor") is not None:
            return numbers["attention_factor"]

        def growth(scale: float) -> float:
            return max(1.0, 0.1 * scale * math.log(max(1.0, numbers["factor"])) + 1.0)

        mscale, everywhere = numbers.get("mscale"), numbers.get("mscale_all_dim")
        return growth(mscale) / growth(everywhere) if mscale and everywhere else growth(1.0)


def read_rope(config: "ModelConfig") -> Rope:
    """What config.json says: rope_parameters, or the older rope_theta and rope_scaling.

    Raises InputError for a kind that is not built and for numbers that are none.
    """
    entry = "rope_scaling" if config.rope_scaling else "rope_parameters"
    given = getattr(config, entry)
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise _refusal(entry, given, "a mapping")
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in NEEDED:
        raise _refusal(f"{entry}: rope_type", kind, ", ".join(NEEDED))
    _refuse_unread(entry, kind, given)
    theta = given.get("rope_theta", config.rope_theta)
    numbers = {name: given[name] for name in (*NEEDED[kind], *OPTIONAL) if name in given}
    missing = [name for name in NEEDED[kind] if numbers.get(name) is None]
    if missing:
        raise InputError(f"config.json: {entry}: {missing[0]}: missing; rope_type {kind} needs it")
    length = config.max_position_embeddings
    if kind in ("llama3", "yarn"):
        length = config.original_max_position_embeddings or given.get(LENGTH) or length
    wanted = {"rope_theta": 10_000.0 if theta is None else theta, LENGTH: length, **numbers}
    for name, value in wanted.items():
        _check_positive(f"{entry}: {name}", value, nullable=name in OPTIONAL)
    return Rope(
        channels=config.head_dim or config.hidden_size // config.num_attention_heads,
        theta=float(wanted["rope_theta"]),
        kind=kind,
        trained_length=length,
        numbers=numbers,
        truncate=bool(given.get("truncate", True)),
    )


def _refuse_unread(entry: str, kind: str, given: Mapping[str, Any]) -> None:
    """Raise InputError for an entry that this kind does not read, unless it changes nothing."""
    read = (*ANYWHERE, *NEEDED[kind], *(OPTIONAL if kind == "yarn" else ()))
    for name, value in given.items():
        whole = name == "partial_rotary_factor" and value == 1
        if name not in read and value is not None and not whole:
            accepted = ", ".join(sorted(set(read) - {"type", "finetuned"}))
            raise InputError(
                f"config.json: {entry}: {name}: found {value!r:.60} with rope_type {kind}; "
                f"accepted: {accepted}"
            )


def _exponents(channels: int, device: torch.device) -> Tensor:
    return torch.arange(0, channels, 2, device=device).float() / channels


def _check_positive(entry: str, value: Any, nullable: bool) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and 0 < value < math.inf) and not (value is None and nullable):
        raise _refusal(entry, value, "a number above 0")


def _refusal(entry: str, found: object, accepted: str) -> InputError:
    return InputError(f"config.json: {entry}: found {found!r}; accepted: {accepted}")
