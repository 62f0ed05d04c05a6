"""Dropout whose masks are a function of (seed, step, site, sample, token, channel), never a state.

T tokens, C channels. A key is one int32 per token; a site is one dropout of a model.
"""

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensor

from trainer.models.leaves import runs_compiled

_DRAWS = 1 << 16
"""A draw is 16 bits: a probability is rounded to 1/65536, and the scaling follows the rounding."""


def token_keys(
    seed: int, step: int, sample_ids: Tensor, sequence_index: Tensor, token_index: Tensor
) -> Tensor:
    """One int32 key [T] per token, the same whatever batch the token sits in.

    sample_ids [T] are data-set numbers, sequence_index [T] counts the sequences of a sample and
    token_index [T] the tokens of a sequence; any integer type, on any device.
    """
    keys = torch.full_like(token_index, _start(seed, step), dtype=torch.int32)
    for part in (sample_ids, sequence_index, token_index):
        keys = _mix(keys ^ _to_int32(part))
    return keys


class Dropout(nn.Module):
    """Zeroes channels with probability p and scales the rest, in training mode only.

    With keys, the mask is a hash of (key, site, channel) and no generator is read or advanced;
    without, it is `torch.nn.functional.dropout`. `number_sites` gives each dropout its site.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = float(p)
        self._site, self._site_hash = 0, _site_constant(0)
        self._dropped = min(round(self.p * _DRAWS), _DRAWS - 1)
        self._hashes: tuple[object, Tensor] | None = None
        self._constants: tuple[object, tuple[Tensor, Tensor, Tensor]] | None = None

    @property
    def site(self) -> int:
        """The number of this dropout in its model."""
        return self._site

    @site.setter
    def site(self, number: int) -> None:
        self._site, self._site_hash = number, _site_constant(number)

    @property
    def active(self) -> bool:
        """Whether this dropout does anything now."""
        return self.training and self.p > 0

    @property
    def _threshold(self) -> int:
        """What `draw_bits` below are dropped."""
        return self._dropped * _DRAWS - (1 << 31)

    @property
    def scale(self) -> float:
        """What a kept channel is multiplied by: one over its exact probability of being kept."""
        return _DRAWS / (_DRAWS - self._dropped)

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """x [..., C], keys [...] or None."""
        if not self.active:
            return x
        if keys is None:
            return F.dropout(x, self.p)
        if runs_compiled(x):
            from trainer.models.fused_dropout import draws_of, dropped

            return dropped(x, draws_of(self, keys, x.shape[-1]))
        return (x * self.mask(x, keys)) * self.scale

    def add(self, residual: Tensor, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """residual + dropout(x), in one pass less."""
        if not self.active or keys is None:
            return residual + self(x)
        if runs_compiled(x):
            from trainer.models.fused_dropout import draws_of, dropped_sum

            return dropped_sum(residual, x, draws_of(self, keys, x.shape[-1]))
        return torch.add(residual, x * self.mask(x, keys), alpha=self.scale)

    @torch.no_grad()
    def mask(self, x: Tensor, keys: Tensor) -> Tensor:
        """Ones where a channel of x [..., C] is kept and zeros elsewhere, in the type of x."""
        if torch.compiler.is_compiling():  # slicing pairs would be a graph for odd lengths alone
            columns = _mixed(torch.arange(x.shape[-1], device=x.device) // 2 + 1)
            bits = draw_bits(keys, columns, self._site_hash)
            return (bits >= self._threshold).to(x.dtype)
        draws = _draws(keys ^ self._site_hash, x.shape[-1])
        kept = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        return torch.ge(draws, self._dropped - _DRAWS // 2, out=kept)

    @property
    def dropped(self) -> int:
        """How many of the 65,536 draws are dropped."""
        return self._dropped

    def head_hashes(self, num_heads: int, device: torch.device) -> Tensor:
        """int32 [num_heads], by which `mask(head_keys(keys))` starts from keys: keys ^ hash.

        Made once for each device: a kernel takes it where Python would compute it each time.
        """
        if torch.compiler.is_compiling():  # what is kept would make a second graph
            return _mixed_count(num_heads, device) ^ self._site_hash
        wanted = num_heads, self.site, device
        if self._hashes is None or self._hashes[0] != wanted or is_stale(self._hashes[1]):
            hashes = _mixed_count(num_heads, device).bitwise_xor_(self._site_hash)
            self._hashes = wanted, hashes
        return self._hashes[1]

    def constants(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """The site's hash, what `draw_bits` below are dropped, and the scale: scalars on a device.

        Made once for each device, without a copy from the host.
        """
        wanted = self.site, device
        if (
            self._constants is None
            or self._constants[0] != wanted
            or is_stale(self._constants[1][0])
        ):
            numbers = self._site_hash, self._threshold
            site, threshold = (torch.full((), n, dtype=torch.int32, device=device) for n in numbers)
            scale = torch.full((), self.scale, dtype=torch.float32, device=device)
            self._constants = wanted, (site, threshold, scale)
        return self._constants[1]

    def extra_repr(self) -> str:
        return f"p={self.p}, site={self.site}"


def number_sites(model: nn.Module) -> None:
    """Gives every dropout of a model a site of its own, in the order of `model.modules()`."""
    dropouts = (module for module in model.modules() if isinstance(module, Dropout))
    for site, dropout in enumerate(dropouts):
        dropout.site = site


def head_keys(keys: Tensor, num_heads: int) -> Tensor:
    """Keys [B, L] of queries -> keys [B, num_heads, L]: every head drops keys of its own."""
    return keys.unsqueeze(1) ^ _mixed_count(num_heads, keys.device).view(1, -1, 1)


def draw_bits(keys: Tensor, columns: Tensor, site: Tensor | int) -> Tensor:
    """int32 [..., C] whose 16 high bits are the draws of keys [...] and `mixed_columns` [C].

    The same as `_draws`, but number by number, as a compiler fuses it.
    """
    hashes = _mix(keys ^ site).unsqueeze(-1) ^ columns
    hashes = hashes * 0x7FEB352D
    hashes = hashes ^ ((hashes >> 15) & 0x1FFFF)
    hashes = hashes * _signed(0x846CA68B)
    hashes = hashes ^ ((hashes >> 16) & 0xFFFF)
    odd = torch.arange(columns.shape[0], device=columns.device) % 2 == 1
    return torch.where(odd, hashes, hashes << 16)


def is_stale(known: Tensor) -> bool:
    """Whether a tensor was made while something traced the model, and that has ended."""
    return isinstance(known, FakeTensor) and known.fake_mode is not detect_fake_mode()


_columns: dict[tuple[int, torch.device], Tensor] = {}


def mixed_columns(channels: int, device: torch.device) -> Tensor:
    """int32 [C], what the hash of a row is mixed with for each channel; made once for a device."""
    known = _columns.get((channels, device))
    if known is None or is_stale(known):
        known = _mixed(torch.arange(channels, device=device) // 2 + 1)
        _columns[channels, device] = known
    return known


def _draws(keys: Tensor, channels: int) -> Tensor:
    """Uniform int16 [..., C] of keys [...], which it overwrites: two halves of each hash.

    Rows and columns are mixed on their own before they meet, so that half a round is enough after.
    """
    hashes = _mix(keys).unsqueeze(-1) ^ _mixed_count((channels + 1) // 2, keys.device)
    hashes *= 0x7FEB352D
    hashes ^= (hashes >> 15).bitwise_and_(0x1FFFF)
    hashes *= _signed(0x846CA68B)
    hashes ^= (hashes >> 16).bitwise_and_(0xFFFF)
    return hashes.view(torch.int16)[..., :channels]


def _mix(x: Tensor) -> Tensor:
    """A full-avalanche bijection of int32, in place (lowbias32 of C. Wellons' hash-prospector)."""
    x ^= (x >> 16).bitwise_and_(0xFFFF)  # `>>` keeps the sign; the mask makes it a logical shift
    x *= 0x7FEB352D
    x ^= (x >> 15).bitwise_and_(0x1FFFF)
    x *= _signed(0x846CA68B)
    x ^= (x >> 16).bitwise_and_(0xFFFF)
    return x


def _mixed_count(number: int, device: torch.device) -> Tensor:
    """Mixed 1, 2, ... `number`, int32 [number]."""
    return _mixed(torch.arange(1, number + 1, device=device))


def _mixed(count: Tensor) -> Tensor:
    """Counters mixed, int32.

    In int64, where nothing overflows: compiled C++ takes it that counters never do, and errs.
    """
    for factor in (0x7FEB352D, 0x2C1B3C6D):
        count = ((count ^ (count >> 16)) * factor) & 0xFFFFFFFF
    return (count ^ (count >> 15)).to(torch.int32)


def _to_int32(part: Tensor) -> Tensor:
    """Both halves of an integer in 32 bits; numbers below 2^31 stay as they are."""
    if part.dtype == torch.int32:
        return part
    wide = part.to(torch.int64)
    return (wide ^ (wide >> 32)).to(torch.int32)


def _start(seed: int, step: int) -> int:
    return _hash_of(f"{seed} {step}")


def _site_constant(site: int) -> int:
    return _hash_of(f"site {site}")


def _hash_of(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    return _signed(int.from_bytes(digest, "little"))


def _signed(word: int) -> int:
    """The int32 that has the same bits as an unsigned word."""
    return word - (1 << 32) if word >> 31 else word
