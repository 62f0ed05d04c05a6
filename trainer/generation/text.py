"""Texts generated from prompts, whole or piece by piece while they come."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from trainer.generation.decoding import Decoding, Past
from trainer.generation.ends import end_ids as known_end_ids
from trainer.generation.growing_text import GrowingText
from trainer.generation.settings import GenerationSettings
from trainer.tokenizer import Tokenizer
from trainer.tokenizer.special_tokens import ids_in_front


def generate(
    model: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    settings: GenerationSettings | None = None,
    end_ids: Collection[int] | None = None,
    first: int = 0,
) -> list[str]:
    """What follows each prompt (text, or ids), without special tokens and without a stop text.

    `model` is a causal language model. The end tokens are the model's and the tokenizer's, unless
    `end_ids` are given. `first` is the first prompt's number, for what is drawn.
    """
    texts = [""] * len(prompts)
    for row, piece in stream(model, tokenizer, prompts, settings, end_ids, first):
        texts[row - first] += piece
    return texts


def stream(
    model: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    settings: GenerationSettings | None = None,
    end_ids: Collection[int] | None = None,
    first: int = 0,
    past: Past | None = None,
) -> Iterator[tuple[int, str]]:
    """(number of the prompt, next piece of its text) as they come, piece by piece.

    A piece is held back while it may be the start of a stop text or half a character. `past` is
    for prompts that come one at a time and begin as the last one: what they share is not computed
    again.
    """
    settings = settings or GenerationSettings()
    end_ids = known_end_ids(model, tokenizer) if end_ids is None else end_ids
    for start in range(0, len(prompts), settings.batch_size):
        rows = range(start, min(start + settings.batch_size, len(prompts)))
        ids = {first + row: _ids(tokenizer, prompts[row]) for row in rows}
        decoding = Decoding(model, ids, settings, end_ids, past)
        texts = {row: GrowingText(tokenizer, settings.stop) for row in ids}
        while decoding.rows:
            for row, token in decoding.step().items():
                last = row not in decoding.rows
                piece = texts[row].add(token, last)
                if piece:
                    yield row, piece
            decoding.finish({row for row in decoding.rows if texts[row].stopped})


def _ids(tokenizer: Tokenizer, prompt: str | Sequence[int]) -> list[int]:
    """A prompt's ids, without special tokens at its end, which would end the text."""
    if not isinstance(prompt, str):
        return list(prompt)
    return [*ids_in_front(tokenizer), *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
