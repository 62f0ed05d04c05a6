"""Plain recipes: a model's own loss is divided like any other, if it is a mean over labels."""

import logging
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.training.plain_runs import Line, ragged, rows, trainer, weights
from trainer.data.batch import StackedBatch
from trainer.errors import InputError
from trainer.tasks.plain_recipes import OwnLoss, own_loss


def batch(labels: torch.Tensor) -> StackedBatch:
    return StackedBatch({"labels": labels}, np.arange(len(labels)), ["labels"])


def test_the_labels_that_a_mean_is_over_are_counted() -> None:
    ids = torch.tensor([[-100, 5, 6], [7, 8, -100]])
    mean = torch.tensor(2.0)
    for shifted, labels, count in (
        (False, ids, 4), (True, ids, 3), (False, torch.tensor([1, 2, -100]), 2),
        (False, torch.tensor([0.5, 1.5]), 2), (True, torch.tensor([1, 2]), 2),
    ):  # fmt: skip
        total, number = OwnLoss(shifted).loss({"loss": mean}, batch(labels))
        assert (float(total), int(number)) == (2.0 * count, count)


def test_a_batch_without_labels_adds_nothing_to_the_gradient() -> None:
    logits = torch.ones(2, 3, requires_grad=True)
    labels = torch.tensor([-100, -100])
    loss = torch.nn.functional.cross_entropy(logits, labels)
    total, count = OwnLoss().loss({"loss": loss, "logits": logits}, batch(labels))
    total.backward()
    assert (float(total), int(count)) == (0.0, 0) and not logits.grad.any()  # type: ignore[union-attr]


def test_where_a_model_has_its_loss() -> None:
    one, many = torch.tensor(1.0), torch.ones(3)
    for outputs in ({"loss": one}, (one, many), one, torch.ones(1)):
        assert own_loss(outputs) == 1.0
    for outputs in ({"logits": many}, (many,), many, ()):
        assert own_loss(outputs) is None


@pytest.mark.parametrize("out", ["dict", "tuple"])
@pytest.mark.parametrize("micro", [None, 3])
def test_a_model_with_its_own_loss_trains_as_with_ours(out: str, micro: int | None) -> None:
    expected = trainer(rows())
    run = trainer(rows(), loss=None, model=Line(out), settings={"micro_batch_size": micro})
    assert run.fit()["train_loss"] == pytest.approx(expected.fit()["train_loss"], rel=1e-12)
    assert np.allclose(weights(run), weights(expected), rtol=1e-12, atol=0)


def test_a_loss_that_is_no_mean_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    class Summed(Line):
        def forward(self, x: Any, labels: Any = None) -> Any:
            return {"loss": (super().forward(x) - labels).square().sum()}

    with caplog.at_level(logging.WARNING):
        trainer(ragged(), loss=None, model=Line("dict")).fit()
        assert "not the mean" not in caplog.text
        trainer(rows(), loss=None, model=Summed()).fit()
    assert "the model's own loss is not the mean over its labels: it is" in caplog.text


def test_a_model_without_a_loss_is_refused_before_the_first_step() -> None:
    with pytest.raises(InputError, match="^loss: the model returned none for x; accepted: rows wi"):
        trainer([{"x": row["x"]} for row in rows()], loss=None, model=Line("dict")).fit()
