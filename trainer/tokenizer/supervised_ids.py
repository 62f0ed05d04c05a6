"""Supervised ids: encodes texts, with labels for the tokens that are trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from trainer.tokenizer.assistant_spans import Supervised

if TYPE_CHECKING:
    from trainer.tokenizer import Tokenizer

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class SupervisedIds:
    """The ids and labels of N texts."""

    input_ids: list[list[int]]
    labels: list[list[int]]
    """The ids of the tokens that are trained on, and -100 for all other tokens."""
    num_truncated: list[int]
    """The number of tokens that were cut off from each text [N]."""

    def by_sample(self, sizes: Sequence[int]) -> dict[str, list[list[list[int]]]]:
        """The columns input_ids and labels, in which sample i has `sizes[i]` consecutive texts."""
        return {
            "input_ids": regrouped(self.input_ids, sizes),
            "labels": regrouped(self.labels, sizes),
        }


def supervised_ids(
    tokenizer: "Tokenizer", texts: Sequence[Supervised], max_length: int, *, is_chat: bool
) -> SupervisedIds:
    """The first `max_length` ids of each text, and their labels.

    A token is trained on if one of its characters is in a span of the text. If `is_chat` is false,
    the special tokens that the tokenizer adds before a text are added; in a chat, the template has
    already written them.
    """
    from trainer.tokenizer.special_tokens import ids_in_front

    encoded = tokenizer(
        [each.text for each in texts],
        add_special_tokens=False,
        return_offsets_mapping=True,
        verbose=False,  # no warning about long texts, since they are cut below
    )
    front = [] if is_chat else ids_in_front(tokenizer)
    found = SupervisedIds([], [], [])
    for text, own, offsets in zip(
        texts, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        ids, offsets = [*front, *own], [(0, 0)] * len(front) + offsets
        trained = _is_in_spans(text.spans, offsets[:max_length])
        found.input_ids.append(ids[:max_length])
        found.labels.append(
            [number if yes else -100 for number, yes in zip(ids, trained, strict=False)]
        )
        found.num_truncated.append(max(0, len(ids) - max_length))
    return found


def regrouped(entries: Sequence[Entry], sizes: Sequence[int]) -> list[list[Entry]]:
    """The entries, divided among samples: sample i has `sizes[i]` consecutive entries."""
    left = iter(entries)
    return [[next(left) for _ in range(size)] for size in sizes]


def has_trained_token(labels: Sequence[Sequence[int]]) -> bool:
    """Whether any token is trained on, except the first of a sequence, which nothing predicts."""
    return any(label != -100 for sequence in labels for label in sequence[1:])


def _is_in_spans(
    spans: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]]
) -> list[bool]:
    """Whether each token, given by its offsets, has a character in one of the spans."""
    import numpy as np

    places = np.array(offsets).reshape(-1, 2)
    is_in = np.zeros(len(places), dtype=bool)
    for start, stop in spans:
        is_in |= (places[:, 0] < stop) & (places[:, 1] > start)
    found: list[bool] = is_in.tolist()
    return found
