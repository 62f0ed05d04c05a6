"""Rotary positions: plain, or scaled for longer texts as config.json specifies.

R channels of a head are rotated; a wavelength is the number of tokens in which a pair of channels
makes one full rotation.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.models.blocks.layer_place import GLOBAL, LOCAL, head_channels
from trainer.models.formats.rope_entries import (
    EXTENDING,
    FACTORS,
    LENGTH,
    NEEDED,
    OPTIONAL,
    PARTIAL,
    check_bounds,
    rope_kind,
)
from trainer.models.packing import Layout

if TYPE_CHECKING:
    from trainer.models.config import ModelConfig

ACCEPTED_BY_ALL = ("rope_type", "type", "rope_theta", LENGTH, "truncate", "finetuned")
"""Entries that every kind of scaling may have; `finetuned` does not affect the positions."""


@dataclass(frozen=True)
class Rope:
    """The rotation of queries and keys by their positions (Su et al., 2021)."""

    channels: int
    """R, the number of channels that are rotated: the first ones of a head"""
    theta: float = 10_000.0
    kind: str = "default"
    trained_length: int = 0
    """The maximum length of texts in tokens, before scaling"""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """The settings of this kind of scaling by name, such as factor"""
    truncate: bool = True
    """Whether YaRN's ramp starts and ends at whole channels"""
    factors: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    """LongRoPE's factors of the wavelengths, for texts up to the trained length and for longer ones
    """

    @property
    def depends_on_length(self) -> bool:
        """Whether the rotation of a token depends on the length of its sequence."""
        return self.kind in ("dynamic", "longrope")

    @property
    def switch_length(self) -> int | None:
        """The length above which texts use another rotation (LongRoPE); None: no such length."""
        return self.trained_length if self.kind == "longrope" else None

    @property
    def longest(self) -> int:
        """The maximum length of texts in tokens, with scaling."""
        return int(self.trained_length * max(1.0, self.numbers.get("factor", 1.0)))

    def rotation(self, position_ids: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Cosines and sines, fp32 [T, R / 2], for position_ids [T]."""
        frequencies, scale = self._frequencies(position_ids.device), 1.0
        if self.kind == "dynamic":
            frequencies = self._dynamic(position_ids, layout)
        elif self.kind == "yarn":
            scale = self._yarn_temperature()
        elif self.kind == "longrope":
            frequencies = self._longrope(position_ids, layout)
            scale = self._longrope_temperature()
        angles = position_ids.float().unsqueeze(-1) * frequencies
        return angles.cos() * scale, angles.sin() * scale

    def _frequencies(self, device: torch.device) -> Tensor:
        """fp32 [R / 2], the rotation per token in radians."""
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
        """[T, R / 2], NTK-aware: theta grows with sequences that exceed the trained length."""
        factor, channels = self.numbers["factor"], self.channels
        lengths = _lengths(position_ids, layout)
        beyond = (lengths / self.trained_length).clamp(min=1.0).unsqueeze(-1)
        growth = (factor * beyond - (factor - 1)) ** (channels / (channels - 2))
        return 1.0 / (self.theta * growth) ** _exponents(channels, position_ids.device)

    def _longrope(self, position_ids: Tensor, layout: Layout) -> Tensor:
        """[T, R / 2] of LongRoPE (Ding et al., 2024), which depends on each sequence's length."""
        device = position_ids.device
        powers = self.theta ** _exponents(self.channels, device)
        short, long = (1.0 / (torch.tensor(each, device=device) * powers) for each in self.factors)
        is_long = _lengths(position_ids, layout) > self.trained_length
        return torch.where(is_long.unsqueeze(-1), long, short)

    def _longrope_temperature(self) -> float:
        given, factor = self.numbers.get("attention_factor"), self.numbers["factor"]
        if given is not None or factor <= 1.0:
            return 1.0 if given is None else given
        return math.sqrt(1 + math.log(factor) / math.log(self.trained_length))

    def _llama3(self, plain: Tensor) -> Tensor:
        """Llama 3.1 keeps short wavelengths, interpolates long ones and blends those in between."""
        numbers = self.numbers
        periods = self.trained_length * plain / (2 * math.pi)  # rotations in the trained length
        low, high = numbers["low_freq_factor"], numbers["high_freq_factor"]
        blend = ((periods - low) / (high - low)).clamp(0, 1)
        return plain * (blend + (1 - blend) / numbers["factor"])

    def _yarn(self, plain: Tensor) -> Tensor:
        """YaRN (Peng et al., 2023): like Llama 3.1, but the blend is a ramp over the channels."""
        numbers, last = self.numbers, self.channels - 1
        low = self._channel_of(numbers.get("beta_fast") or 32.0)
        high = self._channel_of(numbers.get("beta_slow") or 1.0)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, last)
        pairs = torch.arange(len(plain), device=plain.device, dtype=torch.float32)
        blend = ((pairs - low) / (high - low if high != low else 0.001)).clamp(0, 1)
        return plain * (1 - blend) + plain / numbers["factor"] * blend

    def _channel_of(self, periods: float) -> float:
        """The channel pair that rotates this many times in a text of the trained length."""
        wavelength = self.trained_length / (periods * 2 * math.pi)
        return self.channels * math.log(wavelength) / (2 * math.log(self.theta))

    def _yarn_temperature(self) -> float:
        """The factor of cosines and sines, which keeps attention as sharp as in short texts."""
        numbers = self.numbers
        if numbers.get("attention_factor") is not None:
            return numbers["attention_factor"]

        def growth(scale: float) -> float:
            return max(1.0, 0.1 * scale * math.log(max(1.0, numbers["factor"])) + 1.0)

        mscale, everywhere = numbers.get("mscale"), numbers.get("mscale_all_dim")
        return growth(mscale) / growth(everywhere) if mscale and everywhere else growth(1.0)


def read_rope(config: "ModelConfig", layer_kind: str = GLOBAL) -> Rope:
    """Read rope_parameters, or the older rope_theta and rope_scaling, from config.json.

    In some families (Gemma 3) local and global layers have different rotations; `layer_kind`
    selects one. Raises InputError for an unsupported kind of scaling and for invalid numbers.
    """
    entry, given, theta = _given(config, layer_kind)
    if not isinstance(given, Mapping):
        raise _refusal(entry, given, "a mapping")
    kind = rope_kind(given)
    if not isinstance(kind, str) or kind not in NEEDED:
        raise _refusal(f"{entry}: rope_type", kind, ", ".join(NEEDED))
    share = _refuse_unread(config, entry, kind, given)
    names = (*NEEDED[kind], *OPTIONAL.get(kind, ()))
    numbers = {name: given[name] for name in names if name in given and name not in FACTORS}
    missing = [name for name in NEEDED[kind] if given.get(name) is None]
    if missing:
        raise InputError(f"config.json: {entry}: {missing[0]}: missing; rope_type {kind} needs it")
    length = config.max_position_embeddings
    if kind in EXTENDING:
        length = config.original_max_position_embeddings or given.get(LENGTH) or length
    theta = given.get("rope_theta", theta)
    wanted = {"rope_theta": 10_000.0 if theta is None else theta, LENGTH: length, **numbers}
    for name, value in wanted.items():
        _check_positive(f"{entry}: {name}", value, nullable=name in OPTIONAL.get(kind, ()))
    check_bounds(f"config.json: {entry}", numbers)
    channels = int(head_channels(config) * share)
    if kind == "longrope" and numbers.get("factor") is None:
        numbers["factor"] = config.max_position_embeddings / length
    return Rope(
        channels=channels,
        theta=float(wanted["rope_theta"]),
        kind=kind,
        trained_length=length,
        numbers=numbers,
        truncate=bool(given.get("truncate", True)),
        factors=_factors(entry, given, channels) if kind == "longrope" else ((), ()),
    )


def _given(config: "ModelConfig", layer_kind: str) -> tuple[str, Any, Any]:
    """The name of the entry, its value for a kind of layer, and theta as older files store it."""
    if config.known("rope_local_base_freq") is None:
        entry = "rope_scaling" if config.rope_scaling else "rope_parameters"
        given = getattr(config, entry)
        return entry, {} if given is None else given, config.rope_theta
    both = config.rope_parameters or {}
    of_layers = both.get(layer_kind) if isinstance(both, Mapping) else None
    entry = f"rope_parameters: {layer_kind}"
    if not isinstance(both, Mapping) or not {LOCAL, GLOBAL} >= set(both):
        raise _refusal("rope_parameters", both, f"mappings named {LOCAL} and {GLOBAL}")
    if layer_kind == LOCAL:
        return entry, of_layers or {}, config.rope_local_base_freq
    if config.rope_scaling:
        entry, of_layers = "rope_scaling", {**(of_layers or {}), **config.rope_scaling}
    return entry, of_layers or {}, config.rope_theta


def _factors(
    entry: str, given: Mapping[str, Any], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Check and return LongRoPE's two lists of factors."""
    count = channels // 2
    for name in FACTORS:
        found = given[name]
        if not isinstance(found, list) or len(found) != count:
            size = f"{len(found)} numbers" if isinstance(found, list) else repr(found)
            where = f"config.json: {entry}: {name}"
            raise InputError(f"{where}: found {size:.60}; accepted: a list of {count} numbers")
        for value in found:
            _check_positive(f"{entry}: {name}", value, nullable=False)
    short, long = (tuple(float(value) for value in given[name]) for name in FACTORS)
    return short, long


def _refuse_unread(config: "ModelConfig", entry: str, kind: str, given: Mapping[str, Any]) -> float:
    """Raise InputError for an entry that this kind does not read, unless it has no effect.

    Returns the share of a head's channels that is rotated.
    """
    read = (*ACCEPTED_BY_ALL, *NEEDED[kind], *OPTIONAL.get(kind, ()))
    default = config.known(PARTIAL)
    share = given.get(PARTIAL, default)
    share = 1.0 if share is None else share
    _check_positive(f"{entry}: {PARTIAL}", share, nullable=False)
    for name, value in given.items():
        changes_nothing = name == PARTIAL and (default is not None or value == 1)
        if name not in read and value is not None and not changes_nothing:
            accepted = ", ".join(sorted(set(read) - {"type", "finetuned"}))
            raise InputError(
                f"config.json: {entry}: {name}: found {value!r:.60} with rope_type {kind}; "
                f"accepted: {accepted}"
            )
    if share > 1:
        raise _refusal(f"{entry}: {PARTIAL}", share, "above 0, up to 1")
    return float(share)


def _lengths(position_ids: Tensor, layout: Layout) -> Tensor:
    """[T], the length of each token's sequence so far: its last position plus one."""
    grid = layout.to_grid(position_ids + 1)
    return layout.from_grid(grid.amax(1, keepdim=True).expand_as(grid))


def _exponents(channels: int, device: torch.device) -> Tensor:
    return torch.arange(0, channels, 2, device=device).float() / channels


def _check_positive(entry: str, value: Any, nullable: bool) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and 0 < value < math.inf) and not (value is None and nullable):
        raise _refusal(entry, value, "a number above 0")


def _refusal(entry: str, found: object, accepted: str) -> InputError:
    return InputError(f"config.json: {entry}: found {found!r}; accepted: {accepted}")
