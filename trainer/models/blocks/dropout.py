"""Dropout whose masks depend only on (seed, step, site, sample, token, channel).

Dimensions: T tokens, C channels. A key is one int32 per token; a site is one dropout module of a
model.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.blocks.dropout_hash import (
    all_draws,
    draw_bits,
    is_stale,
    mixed,
    mixed_columns,
    mixed_count,
    site_hash,
)
from trainer.models.blocks.fused_dropout import Draws, dropped, dropped_sum
from trainer.models.blocks.leaves import runs_compiled

_DRAWS = 1 << 16
"""The number of possible values of a 16-bit draw. Probabilities are rounded to multiples of
1/65536, and the scale uses the rounded probability."""


class Dropout(nn.Module):
    """A module that zeroes channels with probability p and scales the others, in training only.

    With keys, the mask is a hash of (key, site, channel), and no random generator is used;
    without keys, it is `torch.nn.functional.dropout`. `number_sites` numbers the sites.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = float(p)
        self._site, self._site_hash = 0, site_hash(0)
        self._dropped = min(round(self.p * _DRAWS), _DRAWS - 1)
        self._hashes: tuple[object, Tensor] | None = None
        self._constants: tuple[object, tuple[Tensor, Tensor, Tensor]] | None = None

    @property
    def site(self) -> int:
        """The number of this dropout in its model."""
        return self._site

    @site.setter
    def site(self, number: int) -> None:
        self._site, self._site_hash = number, site_hash(number)

    @property
    def active(self) -> bool:
        """Whether this dropout currently has an effect."""
        return self.training and self.p > 0

    @property
    def _threshold(self) -> int:
        """Channels are dropped if their `draw_bits` are below this threshold."""
        return self._dropped * _DRAWS - (1 << 31)

    @property
    def scale(self) -> float:
        """The factor of kept channels: one over the exact probability that a channel is kept."""
        return _DRAWS / (_DRAWS - self._dropped)

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """Apply dropout to x [..., C], with keys [...] or None."""
        return self.drop(x, keys) if self.active else x

    def drop(self, x: Tensor, keys: Tensor | None) -> Tensor:
        """Apply dropout regardless of the mode, which may have changed before a backward pass."""
        if keys is None:
            return F.dropout(x, self.p)
        if runs_compiled(x):
            return dropped(x, self.draws_for(keys, x.shape[-1]))
        return (x * self.mask(x, keys)) * self.scale

    def add(self, residual: Tensor, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """Return residual + dropout(x), with one pass over memory fewer than in two steps."""
        if not self.active or keys is None:
            return residual + self(x)
        if runs_compiled(x):
            return dropped_sum(residual, x, self.draws_for(keys, x.shape[-1]))
        return torch.add(residual, x * self.mask(x, keys), alpha=self.scale)

    @torch.no_grad()
    def mask(self, x: Tensor, keys: Tensor) -> Tensor:
        """Return ones for kept channels of x [..., C] and zeros for others, in the dtype of x."""
        if (
            torch.compiler.is_compiling()
        ):  # `all_draws` slices pairs of channels, so an odd number would need another graph
            columns = mixed(torch.arange(x.shape[-1], device=x.device) // 2 + 1)
            bits = draw_bits(keys, columns, self._site_hash)
            return (bits >= self._threshold).to(x.dtype)
        draws = all_draws(keys ^ self._site_hash, x.shape[-1])
        kept = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        return torch.ge(draws, self._dropped - _DRAWS // 2, out=kept)

    @property
    def dropped(self) -> int:
        """The number of the 65,536 possible draws that drop a channel."""
        return self._dropped

    def head_hashes(self, num_heads: int, device: torch.device) -> Tensor:
        """int32 [num_heads], the hash of each head combined with the site's, for kernels.

        The mask of `head_keys(keys)` is computed from keys ^ hash. Created once per device.
        """
        if torch.compiler.is_compiling():  # a cached value would cause a second graph
            return mixed_count(num_heads, device) ^ self._site_hash
        wanted = num_heads, self.site, device
        if self._hashes is None or self._hashes[0] != wanted or is_stale(self._hashes[1]):
            hashes = mixed_count(num_heads, device).bitwise_xor_(self._site_hash)
            self._hashes = wanted, hashes
        return self._hashes[1]

    def constants(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """The site's hash, the threshold for `draw_bits`, and the scale, as scalars on a device.

        Created once per device, without a copy from the host.
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

    def draws_for(self, keys: Tensor, channels: int) -> Draws:
        """The kernel arguments for tokens with these keys."""
        columns = mixed_columns(channels, keys.device)
        return Draws(keys, columns, *self.constants(keys.device))

    def extra_repr(self) -> str:
        return f"p={self.p}, site={self.site}"


def number_sites(model: nn.Module) -> None:
    """Give every dropout of a model its own site number, in the order of `model.modules()`."""
    dropouts = (module for module in model.modules() if isinstance(module, Dropout))
    for site, dropout in enumerate(dropouts):
        dropout.site = site
