"""Distillation losses: distances of a model's probabilities and hidden states from a teacher's.

Dimensions: N samples, C classes, T tokens, hidden states of H or D channels, a vocabulary of V
tokens.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.data.batch import Batch
from trainer.errors import InputError
from trainer.models.blocks.softcap import capped
from trainer.models.heads.projection import Projection
from trainer.tasks.completions import summed_over_tokens

Divergence = Literal["forward", "reverse", "js"]
CHUNK = 1 << 24
"""The maximum number of logits in memory at a time."""
NEVER = -100.0
"""A log-probability whose contribution to a divergence rounds to 0."""


def soft_cross_entropy(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """[N], KL(teacher || model) of logits [N, C], times the temperature squared.

    With this factor, the scale of the gradients hardly depends on the temperature (Hinton et al.
    2015, section 2).
    """
    if logits.shape != teacher.shape:
        found = f"the teacher has {teacher.shape[-1]} classes, the model {logits.shape[-1]}"
        raise InputError(f"recipe.teacher: {found}; accepted: a teacher with the same classes")
    logits = logits if logits.dtype == torch.float64 else logits.float()
    own = F.log_softmax(logits / temperature, -1)
    wanted = F.log_softmax(teacher.to(own) / temperature, -1)
    return F.kl_div(own, wanted, reduction="none", log_target=True).sum(-1) * temperature**2


def hidden_distance(hidden: Tensor, teacher: Tensor, depths: int) -> Tensor:
    """[T], the mean cosine distance between a model's and a teacher's hidden states.

    It is DistilBERT's loss (Sanh et al. 2019) for several layers. Both arguments are
    [T, depths * H], the concatenated hidden states of `depths` layers.
    """
    if hidden.shape != teacher.shape:
        found = f"{teacher.shape[-1] // depths} wide, the model's {hidden.shape[-1] // depths}"
        accepted = "accepted: the same width, or recipe.hidden_weight=0"
        where = "recipe.hidden_weight: the teacher's hidden states are"
        raise InputError(f"{where} {found}; {accepted}")
    hidden = hidden if hidden.dtype == torch.float64 else hidden.float()
    shape = (len(hidden), depths, -1)
    distances = 1 - F.cosine_similarity(hidden.view(shape), teacher.to(hidden).view(shape), dim=-1)
    return distances.mean(-1)


def spaced_layers(states: Sequence[Tensor] | None, count: int) -> Tensor:
    """[T, count * H], the hidden states of `count` evenly spaced layers, the last one included.

    `states` are the embeddings and the hidden states of each layer, [T, H] each.
    """
    assert states is not None, "Head.config requests hidden states"
    depth = len(states) - 1
    layers = [max(1, round(part * depth / count)) for part in range(1, count + 1)]
    return torch.cat([states[layer] for layer in layers], dim=-1)


def hidden_losses(
    states: Sequence[Tensor] | None, teacher: Tensor, depths: int, batch: Batch
) -> Tensor:
    """[N], each sample's mean of `hidden_distance` between `spaced_layers` and the teacher's."""
    distances = hidden_distance(spaced_layers(states, depths), teacher, depths)
    sums = summed_over_tokens(distances, batch)
    return sums / summed_over_tokens(torch.ones_like(distances), batch)


def top_log_probs(projection: Projection, count: int, temperature: float) -> tuple[Tensor, Tensor]:
    """[T, k] ids and [T, k] log-probabilities of the most probable next tokens, in fp32.

    k is `count`, at most the vocabulary's size. Logits are computed in chunks.
    """
    ids, log_probs = [], []
    count = min(count, len(projection.weight))
    for rows in torch.split(projection.hidden, _rows(projection)):
        scores = _log_probs(rows, projection.weight, temperature, projection.cap)
        best = scores.topk(count, dim=-1)
        ids.append(best.indices)
        log_probs.append(best.values)
    return torch.cat(ids), torch.cat(log_probs)


def token_divergence(
    projection: Projection,
    ids: Tensor,
    log_probs: Tensor,
    tokens: Tensor,
    *,
    kind: Divergence,
    temperature: float,
) -> Tensor:
    """[n], the divergence from a teacher at the tokens with these indices [n], times temperature^2.

    The teacher's `ids` [T, k] and `log_probs` [T, k] are from `top_log_probs`. For both models all
    other tokens count as one event. So the divergence is exact if k is the vocabulary's size, and
    otherwise a lower bound (the data processing inequality, Cover and Thomas). A teacher may have
    more rows of output weights than the model, as padding; these also count as other. forward is
    KL(teacher || model), reverse KL(model || teacher), js the Jensen-Shannon divergence. Logits are
    computed in chunks, and recomputed in the backward pass.
    """
    parts = []
    size = len(projection.weight)
    # the ids of a teacher with more rows may leave out some of the model's tokens
    whole = ids.shape[1] == size and not bool((ids >= size).any())
    compared = _DIVERGENCES[kind]

    def of_rows(hidden: Tensor, weight: Tensor, chosen: Tensor, wanted: Tensor) -> Tensor:
        scores = _log_probs(hidden, weight, temperature, projection.cap)
        known = chosen < scores.shape[1]
        own = scores.gather(1, chosen.clamp(max=scores.shape[1] - 1)).where(known, NEVER)
        wanted = wanted.to(own).where(known, NEVER)
        if not whole:
            own, wanted = _with_rest(own), _with_rest(wanted)
        return compared(own, wanted) * temperature**2

    for rows in torch.split(tokens, _rows(projection)):
        arguments = (projection.hidden[rows], projection.weight, ids[rows], log_probs[rows])
        parts.append(checkpoint(of_rows, *arguments, use_reentrant=False))
    return torch.cat(parts) if parts else projection.hidden.new_zeros(0)


def _rows(projection: Projection) -> int:
    return max(1, CHUNK // len(projection.weight))


def _log_probs(hidden: Tensor, weight: Tensor, temperature: float, cap: float | None) -> Tensor:
    """Log-probabilities [n, V] of hidden [n, D] with output weights [V, D], at least in fp32."""
    logits = capped(F.linear(hidden, weight.to(hidden.dtype)), cap)
    wide = torch.promote_types(logits.dtype, torch.float32)
    return F.log_softmax(logits.to(wide) / temperature, -1)


def _with_rest(log_probs: Tensor) -> Tensor:
    """[n, k + 1]: the log-probabilities [n, k], and that of all other tokens combined."""
    rest = (1 - log_probs.exp().sum(-1, keepdim=True)).clamp(min=1e-7).log()
    return torch.cat([log_probs, rest], -1)


def _forward(own: Tensor, wanted: Tensor) -> Tensor:
    return (wanted.exp() * (wanted - own)).sum(-1)


def _reverse(own: Tensor, wanted: Tensor) -> Tensor:
    return (own.exp() * (own - wanted)).sum(-1)


def _jensen_shannon(own: Tensor, wanted: Tensor) -> Tensor:
    middle = torch.logaddexp(own, wanted) - torch.log(torch.tensor(2.0, dtype=own.dtype))
    return (_forward(middle, wanted) + _forward(middle, own)) / 2


_DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "forward": _forward,
    "reverse": _reverse,
    "js": _jensen_shannon,
}
