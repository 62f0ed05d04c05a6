"""Extending: greedy decoding and sampling, token by token, with any logit rules.

N is the number of texts.
"""

from typing import Any

import torch
from torch import Tensor

from trainer.devices.precision import in_float64
from trainer.errors import InputError, NumericsError
from trainer.generation import stopping
from trainer.generation.outputs import GenerateOutput
from trainer.generation.plan import Plan
from trainer.generation.sampling import draw
from trainer.generation.traces import traces


def extend(plan: Plan) -> GenerateOutput:
    """Generate a plan's texts without beam search, and the outputs that its settings request."""
    s, copies = plan.settings, plan.settings.num_return_sequences
    texts = plan.texts(copies)
    rules, stops = plan.rules(copies), plan.stops()
    steps: list[Tensor] = []
    raw: list[Tensor] = []
    done = torch.zeros(len(texts.ids), dtype=torch.bool, device=texts.ids.device)
    lengths = torch.zeros_like(done, dtype=torch.int64)
    put(s.streamer, texts.ids)
    while not done.all():
        logits = scores = texts.logits()
        for rule in rules:
            scores = rule(texts.ids, scores)
        raw, steps = _kept(raw, logits, s.output_logits), _kept(steps, scores, s.output_scores)
        num_generated = texts.ids.shape[1] - plan.ids.shape[1]
        tokens = _chosen(scores, s.do_sample, plan, num_generated).masked_fill(done, plan.pad)
        lengths += ~done
        texts.append(tokens)
        put(s.streamer, tokens)
        done = done | stopping.ended(stops, texts.ids, tuple(steps))
    if s.streamer is not None:
        s.streamer.end()
    return GenerateOutput(
        texts.ids,
        scores=tuple(steps) or None,
        logits=tuple(raw) or None,
        lengths=lengths,
        **(traces(plan, texts.ids, copies) if s.return_dict_in_generate else {}),
    )


def check_streamer(streamer: object, count: int) -> None:
    """Raise InputError if there is a streamer for `count` texts, and `count` is more than one."""
    if streamer is not None and count > 1:
        raise InputError(f"streamer: found {count} texts; accepted: one")


def put(streamer: Any, tokens: Tensor) -> None:
    """Pass tokens to a streamer, if there is one. Raises InputError if there are several texts."""
    check_streamer(streamer, len(tokens))
    if streamer is not None:
        streamer.put(tokens.cpu())


def _chosen(scores: Tensor, sampled: bool, plan: Plan, num_generated: int) -> Tensor:
    """The next token of each text [N]. Raises NumericsError if a text has no finite score."""
    peak = scores.amax(-1)
    if not bool(peak.isfinite().all()):
        row = int((~peak.isfinite()).nonzero()[0])
        found = "all scores are -inf, or one is NaN or inf"
        raise NumericsError(f"generation: token {num_generated} of text {row}: {found}")
    if not sampled:
        return scores.argmax(-1)
    shifted = in_float64(scores - peak.unsqueeze(1))
    rows = range(plan.first, plan.first + len(scores))
    return draw(shifted, plan.seed, rows, num_generated).to(scores.device)


def _kept(steps: list[Tensor], scores: Tensor, wanted: bool) -> list[Tensor]:
    return [*steps, scores] if wanted else steps
