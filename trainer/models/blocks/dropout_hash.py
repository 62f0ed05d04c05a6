"""The hash of dropout masks: a function of (seed, step, site, sample, token, channel).

Dimensions: T tokens, C channels. A key is one int32 per token; a site is one dropout module of a
model.
"""

import hashlib

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensor


def token_keys(
    seed: int, step: int, sample_ids: Tensor, sequence_index: Tensor, token_index: Tensor
) -> Tensor:
    """One int32 key [T] per token, independent of the batch that contains it.

    sample_ids [T] index the data set, sequence_index [T] the sequences of a sample, and
    token_index [T] the tokens of a sequence. They may have any integer dtype and be on any device.
    """
    keys = torch.full_like(token_index, _hash_of(f"{seed} {step}"), dtype=torch.int32)
    for part in (sample_ids, sequence_index, token_index):
        keys = _mix(keys ^ _to_int32(part))
    return keys


def step_key(seed: int, step: int) -> Tensor:
    """[1] int32 on the CPU, the key for dropout that all samples of a step share."""
    return torch.tensor([_hash_of(f"step {seed} {step}")], dtype=torch.int32)


def row_keys(key: Tensor, number: int) -> Tensor:
    """Keys [number] of the rows of a table, from the key [1] of the step."""
    return key ^ mixed_count(number, key.device)


def head_keys(keys: Tensor, num_heads: int) -> Tensor:
    """Keys [B, L] of queries -> keys [B, num_heads, L]: every head has its own mask."""
    return keys.unsqueeze(1) ^ mixed_count(num_heads, keys.device).view(1, -1, 1)


def pass_keys(keys: Tensor, number: int) -> Tensor:
    """Keys for one of several passes through the same layer; each pass has its own masks."""
    return keys ^ _hash_of(f"pass {number}")


def draw_bits(keys: Tensor, columns: Tensor, site: Tensor | int) -> Tensor:
    """int32 [..., C] whose 16 high bits are the draws for keys [...] and `mixed_columns` [C].

    Gives the same draws as `all_draws`, but elementwise, so that a compiler can fuse them.
    """
    hashes = _mix(keys ^ site).unsqueeze(-1) ^ columns
    hashes = hashes * 0x7FEB352D
    hashes = hashes ^ ((hashes >> 15) & 0x1FFFF)
    hashes = hashes * _signed(0x846CA68B)
    hashes = hashes ^ ((hashes >> 16) & 0xFFFF)
    odd = torch.arange(columns.shape[0], device=columns.device) % 2 == 1
    return torch.where(odd, hashes, hashes << 16)


def is_stale(known: Tensor) -> bool:
    """Whether a kept tensor is of no use outside of the mode in which it was created.

    A tensor that was created in a trace has no values after the trace, and one that was created in
    torch.inference_mode cannot be saved for a backward pass.
    """
    if isinstance(known, FakeTensor):
        return known.fake_mode is not detect_fake_mode()
    return known.is_inference() and not torch.is_inference_mode_enabled()


_columns: dict[tuple[int, torch.device], Tensor] = {}


def mixed_columns(channels: int, device: torch.device) -> Tensor:
    """int32 [C], a hash for each channel, to combine with row hashes; created once per device."""
    known = _columns.get((channels, device))
    if known is None or is_stale(known):
        known = mixed(torch.arange(channels, device=device) // 2 + 1)
        _columns[channels, device] = known
    return known


def all_draws(keys: Tensor, channels: int) -> Tensor:
    """Uniform int16 [..., C] from keys [...], which are overwritten; each hash gives two draws.

    Rows and columns are mixed separately first, so that half a round suffices after combining them.
    """
    hashes = _mix(keys).unsqueeze(-1) ^ mixed_count((channels + 1) // 2, keys.device)
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


def mixed_count(number: int, device: torch.device) -> Tensor:
    """int32 [number], the hashes of the counters 1, 2, ..., `number`."""
    return mixed(torch.arange(1, number + 1, device=device))


def mixed(count: Tensor) -> Tensor:
    """The hashes of counters, int32.

    Computed in int64, since compiled C++ assumes that counters never overflow.
    """
    for factor in (0x7FEB352D, 0x2C1B3C6D):
        count = ((count ^ (count >> 16)) * factor) & 0xFFFFFFFF
    return (count ^ (count >> 15)).to(torch.int32)


def _to_int32(part: Tensor) -> Tensor:
    """Fold both halves of an integer into 32 bits; numbers below 2^31 are unchanged."""
    if part.dtype == torch.int32:
        return part
    wide = part.to(torch.int64)
    return (wide ^ (wide >> 32)).to(torch.int32)


def site_hash(site: int) -> int:
    return _hash_of(f"site {site}")


def _hash_of(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    return _signed(int.from_bytes(digest, "little"))


def _signed(word: int) -> int:
    """The int32 with the same bits as an unsigned word."""
    return word - (1 << 32) if word >> 31 else word
