"""Beam search: finds the most probable texts by extending several of them at the same time.

Shapes: B prompts, K beams, C candidates for each prompt and step, V tokens of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from trainer.errors import NumericsError
from trainer.generation.growing_texts import GrowingTexts
from trainer.generation.logit_rules import Rule
from trainer.generation.stopping import Stop, ended

OUT = -1.0e9
"""Added to the scores of excluded candidates, so that they are never chosen."""


@dataclass(frozen=True)
class BeamOptions:
    """The options of a beam search."""

    num_beams: int
    num_returned: int
    """The number of texts to return for each prompt, most probable first."""
    max_length: int
    length_penalty: float = 1.0
    """Scores are divided by (number of new tokens) ** penalty; values above 0 favor long texts."""
    early_stopping: bool | Literal["never"] = False
    """When the search for a prompt stops. True: when K texts have ended. False: when no unfinished
    text has a better score at its present length. "never": when no unfinished text can reach a
    better score.
    """
    sampled: bool = False
    """Whether candidates are sampled; otherwise they are the most probable ones."""
    num_ends: int = 0
    """The number of tokens that end a text."""
    pad: int = 0
    """The id of the pad token."""


@dataclass
class FoundBeams:
    """The R best texts for each of B prompts, in adjacent rows, and the scores of each step."""

    ids: Tensor
    """The ids of the texts [B x R, n], padded at the end."""
    scores: Tensor
    """The scores of the texts [B x R]."""
    beams: Tensor
    """The index of the beam that each new token extended [B x R, new tokens]; -1 after the end."""
    steps: list[Tensor] = field(default_factory=list)
    """The log-probabilities [B x K, V] of each step after all rules, if requested."""
    logits: list[Tensor] = field(default_factory=list)
    """The model's own logits [B x K, V] of each step, if requested."""


@dataclass
class _Ended:
    """The K best finished texts of each prompt; slots are empty until K texts have ended."""

    ids: Tensor
    """The ids of the texts [B, K, n]."""
    scores: Tensor
    """The scores of the texts [B, K]."""
    done: Tensor
    """Whether there is a text [B, K]; False for slots that are still empty."""
    lengths: Tensor
    """The numbers of new tokens [B, K]."""
    beams: Tensor
    """The index of the beam that each new token extended [B, K, new]; -1 after the end."""

    def best(self, others: "_Ended") -> "_Ended":
        """The K best texts of each prompt among these and `others`."""
        both = [
            torch.cat((mine, other), 1)
            for mine, other in zip(vars(self).values(), vars(others).values(), strict=True)
        ]
        order = both[1].topk(self.scores.shape[1]).indices
        return _Ended(*(_taken(each, order) for each in both))


def search_beams(
    texts: GrowingTexts,
    rules: Sequence[Rule],
    stops: Sequence[Stop],
    options: BeamOptions,
    seeds: Sequence[int] = (),
    keep_steps: bool = False,
) -> FoundBeams:
    """Find the best texts of each prompt, with the same steps as transformers.

    `texts` has K copies of each prompt. If candidates are sampled, `seeds` has a seed for each
    prompt. `keep_steps` requests the scores of each step. Raises NumericsError if a logit is not
    finite.
    """
    search = _Search(texts, rules, stops, options, seeds, keep_steps)
    while not search.step():
        pass
    return search.found()


class _Search:
    """The state of the beam search for one batch of prompts."""

    def __init__(
        self,
        texts: GrowingTexts,
        rules: Sequence[Rule],
        stops: Sequence[Stop],
        options: BeamOptions,
        seeds: Sequence[int],
        keep_steps: bool,
    ) -> None:
        self.texts, self.rules, self.stops, self.options = texts, rules, stops, options
        self.keep_steps, device = keep_steps, texts.ids.device
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.width = texts.ids.shape[1]
        rows = len(texts.ids) // options.num_beams
        self.scores = torch.full((rows, options.num_beams), OUT, device=device)
        self.ended = _Ended(
            texts.ids.view(rows, options.num_beams, self.width),
            self.scores.clone(),
            torch.zeros_like(self.scores, dtype=torch.bool),
            torch.zeros_like(self.scores, dtype=torch.int64),
            texts.ids.new_zeros(rows, options.num_beams, 0),
        )
        self.scores[:, 0] = 0.0  # at first all beams of a prompt are equal, so only one counts
        self.beams = self.ended.beams
        self.improvable = torch.ones(rows, 1, dtype=torch.bool, device=device)
        self.steps: list[Tensor] = []
        self.logits: list[Tensor] = []

    def step(self) -> bool:
        """Extend every beam by a token. Returns whether the search is over."""
        sums, sources, tokens = self._candidates()
        ids = torch.cat((self.texts.ids[sources], tokens.unsqueeze(2)), 2)
        beams = torch.cat((self.beams.flatten(0, 1)[sources], sources.unsqueeze(2)), 2)
        stopped = ended(self.stops, ids.flatten(0, 1), tuple(self.steps)).view(sums.shape)
        self._keep_ended(ids, sums, stopped, beams)
        self.scores, kept = (sums + stopped.float() * OUT).topk(self.options.num_beams)
        self.beams = _taken(beams, kept)
        self.texts.append(_taken(tokens, kept).flatten(), _taken(sources, kept).flatten())
        self.improvable = self.improvable & self._may_improve()
        full = self.ended.done.all() & (self.options.early_stopping is True)
        return bool(~self.improvable.any() | full | stopped.all())

    def found(self) -> FoundBeams:
        kept = self.options.num_returned
        new = int(self.ended.lengths[:, :kept].max())
        ids = self.ended.ids[:, :kept, : self.width + new].flatten(0, 1)
        beams = self.ended.beams[:, :kept, :new].flatten(0, 1)
        scores = self.ended.scores[:, :kept].flatten()
        return FoundBeams(ids, scores, beams, self.steps, self.logits)

    def _candidates(self) -> tuple[Tensor, Tensor, Tensor]:
        """The candidates: their sums of log-probabilities, source beams and tokens, each [B, C]."""
        options, logits = self.options, self.texts.logits()
        logs = logits.log_softmax(-1)
        for rule in self.rules:
            logs = rule(self.texts.ids, logs)
        if bool(logs.isnan().any()):  # `step` synchronizes with the device in any case
            place = self.texts.ids.shape[1] - self.width
            raise NumericsError(f"generation: token {place} of a text: its logits are not finite")
        if self.keep_steps:
            self.logits.append(logits)
            self.steps.append(logs)
        size = logs.shape[1]
        sums = (logs.view(*self.scores.shape, size) + self.scores.unsqueeze(2)).flatten(1)
        count = min(max(2, 1 + options.num_ends) * options.num_beams, sums.shape[1])
        order = self._drawn(sums, count) if options.sampled else sums.topk(count).indices
        first = torch.arange(len(sums), device=order.device).unsqueeze(1) * options.num_beams
        return sums.gather(1, order), first + order // size, order % size

    def _drawn(self, sums: Tensor, count: int) -> Tensor:
        """Sample indices [B, count] from the softmax of sums [B, K x V], without replacement."""
        waits = torch.empty_like(sums)
        for row, generator in zip(waits, self.generators, strict=True):
            row.exponential_(generator=generator)
        return (sums.softmax(-1) / waits).topk(count).indices

    def _keep_ended(self, ids: Tensor, sums: Tensor, stopped: Tensor, beams: Tensor) -> None:
        """Of the first K candidates, add those that end now to the best finished texts.

        Candidates after the first K only ensure that K unfinished texts remain.
        """
        options, found = self.options, self.ended
        first = torch.arange(sums.shape[1], device=sums.device) < options.num_beams
        new = stopped & first
        length = ids.shape[2] - self.width
        scores = sums / length ** float(options.length_penalty)
        if options.early_stopping is True:
            scores = scores + found.done.all(1, keepdim=True).float() * OUT
        scores = scores + (~self.improvable).float() * OUT + (~new).float() * OUT
        padded = _Ended(
            torch.cat((found.ids, torch.full_like(found.ids[:, :, :1], options.pad)), 2),
            found.scores,
            found.done,
            found.lengths,
            torch.cat((found.beams, torch.full_like(found.ids[:, :, :1], -1)), 2),
        )
        lengths = torch.full_like(sums, length, dtype=torch.int64)
        self.ended = padded.best(_Ended(ids, scores, new, lengths, beams))

    def _may_improve(self) -> Tensor:
        """Whether an unfinished text of a prompt may still beat its worst finished text [B, 1]."""
        options, length = self.options, self.texts.ids.shape[1] - self.width
        if options.early_stopping == "never" and options.length_penalty > 0:
            length = options.max_length - self.width
        best = self.scores[:, :1] / length ** float(options.length_penalty)
        worst = torch.where(self.ended.done, self.ended.scores.amin(1, keepdim=True), OUT)
        return (best > worst).any(1, keepdim=True)


def _taken(x: Tensor, order: Tensor) -> Tensor:
    """The entries of x [B, C, ...] with the indices `order` [B, K], as [B, K, ...]."""
    places = order.view(*order.shape, *[1] * (x.dim() - 2)).expand(*order.shape, *x.shape[2:])
    return x.gather(1, places)
