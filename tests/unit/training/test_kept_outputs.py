"""Metrics of logits: compute_metrics and functions, of plain modules and of our recipes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from tests.unit.training.plain_runs import Line, ragged, rows, trainer
from trainer.errors import InputError
from trainer.metrics.classification import Accuracy
from trainer.metrics.functions import EvalPrediction
from trainer.settings import TrainSettings
from trainer.trainer import Trainer


class Seen:
    """A compute_metrics that records its arguments."""

    def __init__(self, **results: Any) -> None:
        self.given: list[EvalPrediction] = []
        self.results = results or {"mean": 1.0}

    def __call__(self, prediction: EvalPrediction) -> dict[str, Any]:
        self.given.append(prediction)
        return self.results


def test_a_plain_module_gives_its_outputs_and_labels_in_order() -> None:
    seen = Seen()
    run = trainer(None, eval_dataset=ragged(), compute_metrics=seen)
    assert run.evaluate()["eval_mean"] == 1.0
    logits, labels = seen.given[0]
    assert logits.shape == labels.shape == (24, 4)
    for row, found in zip(ragged(), labels, strict=True):
        assert found.tolist() == [*row["labels"].tolist(), *[-100.0] * (4 - len(row["labels"]))]
    expected = [float((Line()(row["x"]) - row["labels"]).square().sum()) for row in ragged()]
    assert np.allclose(((logits - labels) ** 2).sum(1), expected)


def test_metrics_of_plain_modules() -> None:
    """Numbers are compared directly, classes by argmax; functions are metrics too."""
    run = trainer(
        None, eval_dataset=rows(),
        metrics={"mse": "mse", "worst": lambda p, r: abs(p - r).max()},
    )  # fmt: skip
    found = run.evaluate()
    assert found["eval_mse"] == pytest.approx(found["eval_loss"])
    errors = [abs(float(Line()(row["x"]) - row["labels"])) for row in rows()]
    assert found["eval_worst"] == pytest.approx(max(errors))

    class Scores(torch.nn.Linear):
        def forward(self, x: Any) -> Any:
            return super().forward(x)

    def entropy(outputs: Any, batch: Any) -> Any:
        losses = torch.nn.functional.cross_entropy(outputs, batch["labels"], reduction="none")
        return losses.sum(), len(losses)

    torch.manual_seed(0)
    classes = [{"x": torch.randn(3), "labels": n % 2} for n in range(20)]
    model = Scores(3, 2)
    scored = Trainer(model, loss=entropy, eval_dataset=classes, metrics=["accuracy"])
    right = [int(model(row["x"]).argmax()) == row["labels"] for row in classes]
    assert scored.evaluate()["eval_accuracy"] == np.mean(right)


@pytest.mark.parametrize("preprocess", [None, lambda logits, labels: logits.argmax(-1)])
def test_a_recipe_gives_its_logits_and_labels(preprocess: Any) -> None:
    seen, table = Seen(), ragged_table(21)
    run = Trainer(
        tiny_model(), RECIPES["single_label"], eval_dataset=table, metrics=[Accuracy()],
        settings=TrainSettings(precision="fp32", max_tokens_per_micro_batch=60),
        compute_metrics=seen, preprocess_logits_for_metrics=preprocess,
    )  # fmt: skip
    assert {"eval_accuracy", "eval_mean"} <= run.evaluate().keys()
    logits, labels = seen.given[0]
    assert labels.tolist() == table.fields["labels"].tolist()
    expected = run.model.eval()(**table.collate(range(21)).inputs()).logits.detach().numpy()
    assert np.allclose(logits, expected if preprocess is None else expected.argmax(-1))


def test_results_choose_the_best_model(tmp_path: Path) -> None:
    """In the direction implied by its name, or set by the user."""
    for name, greater, given in (
        ("score", True, None),
        ("my_error", False, None),
        ("x", False, False),
    ):
        run = trainer(
            rows(), eval_dataset=rows(), compute_metrics=Seen(**{name: 3.0}),
            settings={"metric_for_best_model": name, "greater_is_better": given, "max_steps": 1},
        )  # fmt: skip
        assert run.fit()["best"] == {"metric": f"eval_{name}", "step": 1, "value": 3.0}
        assert run.session.greater_is_better is greater
    missing = trainer(
        rows(), eval_dataset=rows(), compute_metrics=Seen(score=1),
        settings={"metric_for_best_model": "scores", "max_steps": 1},
    )  # fmt: skip
    with pytest.raises(InputError, match="found 'eval_scores'; the evaluation has .*eval_score"):
        missing.fit()


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"loss": 1.0}, "^compute_metrics: returned 'loss', which the evaluation has already"),
        ({"a": [1, 2]}, "^compute_metrics: returned 'a' as list; accepted: a dict of numbers"),
    ],
)
def test_results_that_are_none(results: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trainer(None, eval_dataset=rows(), compute_metrics=Seen(**results)).evaluate()


class Squares(Line):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).unsqueeze(1) * x.unsqueeze(2)


def test_outputs_of_different_shapes_are_refused_in_a_line() -> None:
    inputs = [{"x": row["x"]} for row in ragged()]
    run = Trainer(Squares(), progress=False)
    with pytest.raises(
        InputError, match=r"^predictions: 'outputs' has entries of shape \(\d,\) and"
    ):
        run.predict(inputs)


class Successors(torch.nn.Module):
    """Predicts the number after each number, as a causal language model of transformers."""

    loss_type = "ForCausalLM"

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(9.0))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = torch.nn.functional.one_hot(input_ids + 1, 9) * self.scale
        pairs = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        return {"loss": torch.nn.functional.cross_entropy(*pairs), "logits": logits}


def test_next_tokens_are_compared_with_the_labels_after_them() -> None:
    ids = [[1, 2, 3, 4], [2, 3, 5, 6]]
    tokens = [{"input_ids": torch.tensor(row), "labels": torch.tensor(row)} for row in ids]
    tokens[1]["labels"][3] = -100
    found = Trainer(Successors(), eval_dataset=tokens, metrics="accuracy", progress=False)
    assert found.evaluate()["eval_accuracy"] == 4 / 5


@pytest.mark.parametrize("name", ["loss", "first"])
def test_functions_replace_no_results(name: str) -> None:
    metrics = {"a": lambda found, wanted: {"first": 1.0}, "b": lambda found, wanted: {name: 2.0}}
    one = trainer(None, eval_dataset=rows(), metrics=metrics)
    twice = f"^metrics.b: returned '{name}', which the evaluation has already; accepted: another"
    with pytest.raises(InputError, match=twice):
        one.evaluate()


def test_results_may_be_tensors_and_arrays_with_one_entry() -> None:
    given = {"a": torch.tensor(2.0), "b": np.float32(3), "c": np.array([4]), "d": torch.ones(1)}
    found = trainer(None, eval_dataset=rows(), compute_metrics=Seen(**given)).evaluate()
    expected = {"eval_a": 2.0, "eval_b": 3.0, "eval_c": 4.0, "eval_d": 1.0}
    assert {name: found[name] for name in expected} == expected


def test_metrics_need_labels_and_functions() -> None:
    with pytest.raises(InputError, match="^preprocess_logits_for_metrics: given without compute"):
        trainer(None, preprocess_logits_for_metrics=lambda logits, labels: logits)
    with pytest.raises(InputError, match="^compute_metrics: found dict; accepted: a function"):
        trainer(None, compute_metrics={})
