"""Learnt texts: joins prompts with answers, and checks that each sample has trained tokens."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from trainer.data.chat_rows import EXTRA_COLUMNS, refuse_unread
from trainer.errors import InputError, RowError
from trainer.tasks.chat_formats import Rows, prompts_and_answers

if TYPE_CHECKING:
    from trainer.data.batch import Samples
    from trainer.models.model import Model
    from trainer.tokenizer import Tokenizer
    from trainer.tokenizer.assistant_spans import Supervised


def plain_texts(
    rows: Rows, kind: str, *, end: str, learn_prompts: bool
) -> "list[list[Supervised]]":
    """Join prompt, answer and `end` of each row to one text, without a chat template.

    Raises InputError for chats, and RowError for columns that only a template reads.
    """
    from trainer.tokenizer.assistant_spans import Supervised

    refuse_unread(rows, EXTRA_COLUMNS)
    if kind not in ("prompt", "instruction"):
        accepted = "prompt and completion, or instruction and output"
        raise InputError(f"recipe.chat: false, but the rows are chats; accepted: {accepted}")
    found = []
    for prompt, answer in zip(*prompts_and_answers(rows, kind), strict=True):
        text = f"{prompt}{answer}{end}"
        found.append([Supervised(text, [(0 if learn_prompts else len(prompt), len(text))])])
    return found


def refuse_unlearnt(labels: Iterable[Sequence[Sequence[int]]], max_length: int) -> None:
    """Raise RowError for a sample without trained tokens, given the labels of its sequences."""
    from trainer.tokenizer.supervised_ids import has_trained_token

    for row, sample in enumerate(labels):
        if not has_trained_token(sample):
            raise RowError(
                row,
                f"nothing to learn from in its first {max_length} tokens; accepted: a longer "
                "recipe.max_length, or dataset.bad_rows=drop",
            )


def unlearnt_end(samples: "Samples", model: "Model", tokenizer: "Tokenizer") -> str | None:
    """A warning if no token that ends generation is trained on; otherwise None."""
    import numpy as np

    from trainer.generation.stop_tokens import stop_token_ids

    labels = getattr(samples, "fields", {}).get("labels")
    ends = stop_token_ids(model, tokenizer)
    if labels is None or np.isin(labels, ends).any():
        return None
    known = [number for number in ends if number < len(tokenizer)]
    names = ", ".join(tokenizer.convert_ids_to_tokens(known)) or "there is none"
    return (
        f"no end token ({names}) is learnt, so the model will not stop; accepted: a chat "
        "template that writes one after each answer, and answers that are not all cut off"
    )
