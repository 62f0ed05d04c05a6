"""Answer spans: finds the best answer spans in each window, and in all windows of a sample.

Dimensions: T tokens in S sequences (windows).
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


NOTHING = -1
"""The start and end of padding spans, for windows with fewer spans than requested."""


class Span(NamedTuple):
    """A part of a context, with the model's scores."""

    start: int
    end: int
    """The index after the last character."""
    score: float
    """The start's logit plus the end's."""
    probability: float
    """Normalized over all (start, end) pairs of the window, including its first token, which stands
    for no answer."""


def position_loss(
    logits: "Tensor | None", positions: "Tensor", lengths: "Tensor"
) -> tuple["Tensor", "Tensor"]:
    """Cross-entropy of positions [S] over the tokens of S sequences: (sums [S], counts [S]).

    Logits are [T], `lengths` [S] on the CPU. A position beyond its sequence is ignored.
    """
    from trainer.models.packing import Layout
    from trainer.tasks.losses import IGNORED, cross_entropy_in_sequences

    assert logits is not None
    layout = Layout(lengths, logits.device)
    is_inside = positions < layout.device_lengths
    return cross_entropy_in_sequences(logits, layout, positions.where(is_inside, IGNORED))


def tokens_between(starts: "Tensor", ends: "Tensor", lengths: "Tensor") -> "Tensor":
    """[T] bool: the tokens from `starts` [S] to `ends` [S]; none for a span that starts at 0."""
    import torch

    positions = torch.cat([torch.arange(length) for length in lengths.tolist()]).to(starts.device)
    counts = lengths.to(starts.device)
    first, last = (x.repeat_interleave(counts, output_size=len(positions)) for x in (starts, ends))
    return (first > 0) & (positions >= first) & (positions <= last)


def best_spans(
    start_logits: "Tensor | None",
    end_logits: "Tensor | None",
    lengths: "Tensor",
    offsets: "Tensor",
    *,
    max_length: int,
    number: int,
) -> dict[str, "Tensor"]:
    """The `number` best spans of at most `max_length` tokens in each of S windows.

    Logits are [T]; `lengths` [S] are on the CPU. `offsets` [T, 2] are the characters of each token
    in the context, or -1 if no answer may start or end at it. All pairs of tokens are compared.
    Returns `spans` [S, number, 2] in characters, `scores` [S, number], `null_scores` [S] of the
    first tokens and `normalizers` [S], the log of the sum of exp(score) over all pairs of a start
    and an end, of any length, with the first token included.
    """
    import torch

    from trainer.models.packing import Layout

    assert start_logits is not None and end_logits is not None
    layout = Layout(lengths, start_logits.device)
    starts, ends, characters = map(
        layout.to_grid, (start_logits.float(), end_logits.float(), offsets)
    )
    inside = layout.to_grid((offsets[:, 0] >= 0).float()).bool()
    null_scores = starts[:, 0] + ends[:, 0]
    counted = inside.clone()
    counted[:, 0] = True
    normalizers = [x.masked_fill(~counted, -torch.inf).logsumexp(1) for x in (starts, ends)]
    width = min(max_length, starts.shape[1])
    ends = torch.nn.functional.pad(
        ends.masked_fill(~inside, -torch.inf), (0, width - 1), value=-torch.inf
    )
    pairs = starts.masked_fill(~inside, -torch.inf).unsqueeze(2) + ends.unfold(1, width, 1)
    scores, order = pairs.flatten(1).topk(min(number, pairs[0].numel()), dim=1)
    first = order // width
    last = first + order % width
    last = last.clamp(max=starts.shape[1] - 1)
    spans = torch.stack(
        [characters[..., 0].gather(1, first), characters[..., 1].gather(1, last)], dim=-1
    )
    missing = scores == -torch.inf
    spans = spans.masked_fill(missing.unsqueeze(-1), NOTHING)
    scores = scores.masked_fill(missing, torch.finfo(scores.dtype).min)
    padding = number - scores.shape[1]
    return {
        "spans": torch.nn.functional.pad(spans, (0, 0, 0, padding), value=NOTHING),
        "scores": torch.nn.functional.pad(
            scores, (0, padding), value=torch.finfo(scores.dtype).min
        ),
        "null_scores": null_scores,
        "normalizers": normalizers[0] + normalizers[1],
    }


def spans_of(columns: Mapping[str, Any], sample: int) -> Iterator[Span]:
    """All spans of a sample's windows, in the order of the windows.

    `columns` are the results of `best_spans`; the entries of a sample are its windows.
    """
    import numpy as np

    windows = zip(
        columns["spans"][sample],
        columns["scores"][sample],
        columns["normalizers"][sample],
        strict=True,
    )
    for spans, scores, normalizer in windows:
        found = spans[:, 0] != NOTHING
        probabilities = np.exp(scores[found] - normalizer)
        for (start, end), score, p in zip(spans[found], scores[found], probabilities, strict=True):
            yield Span(int(start), int(end), float(score), float(p))


def ranked(columns: Mapping[str, Any], sample: int) -> list[Span]:
    """A sample's spans, best first; a span of several windows keeps its best score."""
    best: dict[tuple[int, int], Span] = {}
    for span in spans_of(columns, sample):
        known = best.get(span[:2])
        if known is None or span.score > known.score:
            best[span[:2]] = span
    return sorted(best.values(), key=lambda span: -span.score)
