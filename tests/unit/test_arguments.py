"""What users give the Trainer: taken, or refused in one line that says what is accepted."""

from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.sequence_classification import SequenceClassification
from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from trainer.callbacks.early_stopping import EarlyStopping
from trainer.callbacks.progress import Progress
from trainer.errors import InputError
from trainer.metrics.classification import F1, Accuracy
from trainer.metrics.named import known_metrics, metrics_of
from trainer.settings import TrainSettings
from trainer.tokenizer import Tokenizer
from trainer.trainer import Trainer

ROWS = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(8)]
SINGLE = RECIPES["single_label"]


def test_a_model_a_tokenizer_and_a_recipe_in_short(minilm: Path) -> None:
    """A path, nothing (the model's own) and a class are what their objects would be."""
    run = Trainer(
        minilm,
        SequenceClassification,
        {"max_steps": 1, "precision": "fp32"},
        train_dataset=ROWS,
        eval_dataset=ROWS,
        metrics=["accuracy", "f1_micro"],
        callbacks=EarlyStopping(2),
    )
    assert isinstance(run.tokenizer, Tokenizer) and run.model_path == str(minilm)
    assert run.model.config.id2label == {0: "a", 1: "b"}
    assert run.settings == TrainSettings(max_steps=1, precision="fp32")
    assert set(run.evaluate()) == {"eval_loss", "eval_accuracy", "eval_f1_micro"}


def test_metrics_by_name() -> None:
    assert metrics_of(None) == {}
    assert metrics_of("accuracy") == {"accuracy": Accuracy()}
    assert metrics_of(["f1", Accuracy]) == {"f1_macro": F1(), "accuracy": Accuracy()}
    assert metrics_of({"mine": "f1_weighted"}) == {"mine": F1("weighted")}
    names = {"accuracy", "matthews", "precision", "recall", "f1", "pearson", "spearman", "mse"}
    assert names < known_metrics().keys() and "recall_binary" in known_metrics()


def given(**changed: Any) -> Trainer:
    sets = {"eval_dataset": ragged_table(4)}
    arguments: dict[str, Any] = {"model": tiny_model(), "recipe": SINGLE, **sets, **changed}
    return Trainer(**arguments)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"recipe": "sequence_classification"}, "recipe: found str; accepted: a recipe"),
        ({"recipe": None}, "give either a recipe or a loss"),
        ({"loss": lambda o, b: (o, 1)}, "give either a recipe or a loss"),
        ({"recipe": None, "loss": torch.nn.MSELoss()}, "loss: found MSELoss; accepted: a function"),
        ({"model": torch.nn.Linear}, "model: found the class Linear; accepted"),
        ({"model": 3}, "model: found int; accepted"),
        ({"model": "x", "recipe": None, "loss": len}, "model: found a path without a recipe"),
        ({"settings": 3}, "settings: found int; accepted: TrainSettings"),
        ({"settings": {"learning_rat": 1}}, "'learning_rat'; did you mean 'learning_rate'"),
        ({"metrics": "acuracy"}, "found 'acuracy'; accepted: .* did you mean 'accuracy'"),
        ({"metrics": {"mine": len}}, "metrics: found builtin_function_or_method; accepted"),
        ({"metrics": 3}, "metrics: found int 3; accepted: names"),
        ({"callbacks": [EarlyStopping]}, r"accepted: EarlyStopping\(patience=...\)"),
        ({"callbacks": print}, "callbacks: found builtin_function_or_method"),
        ({"tokenizer": 3}, "tokenizer: found int; accepted: a path"),
        ({"output_dir": 3}, "output_dir: found int; accepted: a path"),
        ({"seed": "a"}, "seed: found str; accepted: a whole number"),
        ({"eval_dataset": {1: ROWS}}, "dataset.validation: found set '1'"),
    ],
)
def test_anything_else_is_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        given(**changed)
    assert "\n" not in str(error.value)


def test_labels_without_rows_need_a_problem(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="recipe.problem: not known; give it, or rows"):
        Trainer(tmp_path, SequenceClassification(labels=["a", "b"]))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"x": torch.ones(2), "y": 1.0}, r"column 'x' .*found the shapes \(2,\) and \(3,\)"),
        ({"x": torch.ones(3)}, "column 'y' .*1 rows do not have it"),
        ({"x": torch.ones(3), "y": "one"}, "column 'y' .*accepted: a number or a tensor"),
        ({"x": torch.ones(3), "y": None}, "column 'y' .*accepted: a number or a tensor"),
    ],
)
def test_plain_rows_that_do_not_stack_are_one_line(row: dict[str, Any], message: str) -> None:
    rows = [{"x": torch.ones(3), "y": 1.0}] * 4 + [row]
    run = Trainer(Line(3, 1), loss=lambda o, b: (o.sum(), len(o)), train_dataset=rows)
    with pytest.raises(InputError, match=message):
        run.fit()


def test_a_callback_class_without_arguments_is_taken() -> None:
    assert given(callbacks=None).callbacks == []
    assert isinstance(given(callbacks=[Progress]).callbacks[0], Progress)


def test_what_transformers_made_is_named_and_not_taken(minilm: Path) -> None:
    import transformers

    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, intermediate_size=12, vocab_size=30)
    theirs = transformers.BertForSequenceClassification(config)
    wanted = r"transformers' BertForSequenceClassification; accepted: .*AutoModelForSequenceClass"
    with pytest.raises(InputError, match=wanted):
        given(model=theirs)
    with pytest.raises(InputError, match="tokenizer: found transformers' .*AutoTokenizer"):
        given(tokenizer=transformers.AutoTokenizer.from_pretrained(minilm))


class Line(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).squeeze(-1)


def test_a_loss_that_returns_a_mean_is_refused() -> None:
    rows = [{"x": torch.ones(3), "y": 1.0}] * 4
    run = Trainer(Line(3, 1), loss=lambda o, b: (o - b["y"]).square().mean(), train_dataset=rows)
    with pytest.raises(InputError, match=r"loss: .* returned Tensor.*accepted: \(sum, count\)"):
        run.fit()


def test_metrics_of_a_plain_module_are_refused() -> None:
    with pytest.raises(InputError, match="metrics: a plain loss gives no predictions"):
        Trainer(Line(3, 1), loss=lambda o, b: (o.sum(), 1), metrics="accuracy")
