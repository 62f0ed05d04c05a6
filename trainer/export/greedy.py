"""Compares the greedy texts of two models, and accepts differences where two logits nearly tie."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.models.input_checks import max_sequence_length
from trainer.models.pretrained import PretrainedModel
from trainer.tokenizer import Tokenizer

PROMPTS = ("Once upon a time", "The capital of France is", "1, 2, 3, 4,", "def add(a, b):\n")
CHAT = [{"role": "user", "content": "What is the capital of Germany?"}]
TOKENS = 24
"""The number of tokens to generate for each prompt, if the model has enough positions."""
TIES = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 3e-2, "q8_0": 1e-1}
"""Data type of the weights -> the largest difference of two logits that counts as a near tie, in
standard deviations of all logits. At a near tie, rounding can change which token is chosen.
"""
QUANTIZED_TIE = 1e-1
"""The same for all other types; they are only compared between programs that read the same file."""


@dataclass(frozen=True)
class Agreement:
    """To what extent the greedy texts of two models agree."""

    agreed: int
    """The number of equal tokens before each text's first difference, summed over the texts."""
    compared: int
    """The number of tokens in all texts."""
    wrong: str | None
    """Describes the first difference that is not a near tie; None if there is none."""

    @property
    def description(self) -> str:
        """The result in words."""
        if self.agreed == self.compared:
            return f"all {self.compared} tokens agree"
        return f"{self.agreed} of {self.compared} tokens are before a text's first difference"


def prompts_of(model: PretrainedModel, tokenizer: Tokenizer) -> list[list[int]]:
    """The token ids of the prompts, cut to fit the model; a chat model also gets a question."""
    found: list[list[int]] = [list(tokenizer(text)["input_ids"]) for text in PROMPTS]
    found.append(_question(tokenizer))
    positions = max_sequence_length(model.config)
    longest = max(1, positions // 2, positions - TOKENS)
    return [ids[:longest] for ids in found if ids]


def _question(tokenizer: Tokenizer) -> list[int]:
    """The token ids of a question in a chat; empty if the template takes other messages, or none.

    Some templates require a system message, for example.
    """
    if tokenizer.chat_template is None:
        return []
    try:
        ids = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    except InputError:
        return []
    return [int(token) for token in ids]


def num_generated(model: PretrainedModel, prompts: Sequence[Sequence[int]]) -> int:
    """The number of tokens to generate for each prompt, limited by the model's positions."""
    # the model never reads the last generated token, which therefore needs no position
    room = max_sequence_length(model.config) - max(map(len, prompts)) + 1
    return min(TOKENS, room)


def greedy(model: PretrainedModel, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The most probable continuation of each prompt, `num_generated` tokens long."""
    count = num_generated(model, prompts)
    return [_continued(model, prompt, count) for prompt in prompts]


@torch.no_grad()
def _continued(model: PretrainedModel, prompt: Sequence[int], count: int) -> list[int]:
    ids, past, found = torch.tensor([list(prompt)]), None, []
    for _ in range(count):
        outputs = model(ids, past_key_values=past, use_cache=True)
        past = outputs.past_key_values
        ids = outputs.logits[:, -1:].argmax(-1)
        found.append(int(ids))
    return found


def compare_greedy(
    model: PretrainedModel,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    other_texts: Sequence[Sequence[int]],
    tie: float,
) -> Agreement:
    """Compare the `texts` of `model` with those of another model, up to the first difference.

    `tie` is the largest difference of logits that counts as a near tie.
    """
    agreed, wrong = 0, None
    for prompt, text, other in zip(prompts, texts, other_texts, strict=True):
        same = next((n for n in range(len(text)) if text[n] != other[n]), len(text))
        agreed += same
        if same < len(text) and wrong is None:
            gap = _gap(model, [*prompt, *text[:same]], other[same])
            if not gap <= tie:
                wrong = f"token {same + 1} is {other[same]}, not {text[same]} (gap {gap:.2g})"
    return Agreement(agreed, sum(map(len, texts)), wrong)


@torch.no_grad()
def _gap(model: PretrainedModel, ids: Sequence[int], token: int) -> float:
    """The greatest logit minus that of `token`, in standard deviations of all logits."""
    logits: Tensor = model(torch.tensor([list(ids)]), use_cache=False).logits[0, -1].float()
    return float((logits.max() - logits[token]) / logits.std())
