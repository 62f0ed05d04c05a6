"""Arguments of the Trainer: accepted, or refused in one line that names accepted values."""

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
from trainer.metrics.question_answering import Squad
from trainer.models.auto import AutoModelForMaskedLM
from trainer.settings import TrainSettings
from trainer.tokenizer import Tokenizer
from trainer.trainer import Trainer

ROWS = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(8)]
SINGLE = RECIPES["single_label"]


def test_a_model_a_tokenizer_and_a_recipe_in_short(minilm: Path) -> None:
    """A path, None (the model's tokenizer) and a class give the corresponding objects."""
    run = Trainer(
        minilm,
        SequenceClassification,
        {"max_steps": 1, "precision": "fp32"},
        train_dataset=ROWS,
        eval_dataset=ROWS,
        metrics=["accuracy", "f1_micro"],
        callbacks=EarlyStopping(2),
    )
    assert isinstance(run.tokenizer, Tokenizer) and run.setup.model_path == str(minilm)
    assert run.model.config.id2label == {0: "a", 1: "b"}
    assert run.settings == TrainSettings(max_steps=1, precision="fp32")
    assert set(run.evaluate()) == {"eval_loss", "eval_accuracy", "eval_f1_micro"}


def test_a_new_head_is_drawn_from_the_seed(minilm: Path) -> None:
    """Two runs with one seed start from the same weights, whatever was drawn before them."""

    def head(seed: int) -> torch.Tensor:
        torch.rand(3)
        state = torch.get_rng_state()
        run = Trainer(minilm, SequenceClassification, train_dataset=ROWS, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return run.model.state_dict()["head.classifier.weight"]

    first, second, other = head(0), head(0), head(1)
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_metrics_by_name() -> None:
    assert metrics_of(None) == {}
    assert metrics_of("accuracy") == {"accuracy": Accuracy()}
    assert metrics_of(["f1", Accuracy]) == {"f1_macro": F1(), "accuracy": Accuracy()}
    assert metrics_of({"mine": "f1_weighted"}) == {"mine": F1("weighted")}
    assert metrics_of(["f1", F1()]) == {"f1_macro": F1()}
    for alike in ([lambda a, b: 1.0, lambda a, b: 2.0], [Squad(), "exact_texts"]):
        with pytest.raises(InputError, match="^metrics: found '.*' twice; accepted: a different"):
            metrics_of(alike)
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
        ({"recipe": None, "model": "x"}, "model: found a path without a recipe"),
        (
            {"recipe": TrainSettings()},
            "recipe: found TrainSettings; pass settings as settings=...; ",
        ),
        ({"args": 1}, r"Trainer: no argument 'args'; here it is settings=TrainSettings"),
        ({"calbacks": 1}, "Trainer: no argument 'calbacks'; did you mean 'callbacks'"),
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
        (
            {"model": torch.compile(tiny_model())},
            "model: found OptimizedModule, a wrapper of torch; accepted: the module itself; Train",
        ),
        (
            {"model": torch.nn.DataParallel(tiny_model())},
            r"model: found DataParallel, .* accepted: the module itself \(model.module\); launch",
        ),
        ({"train_dataset": []}, "dataset.train: no rows; at least one is needed"),
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
        ({"x": torch.ones(3), "y": "one"}, "column 'y' .*accepted: a number, a tensor or a text"),
        ({"x": torch.ones(3), "y": None}, "column 'y' .*accepted: a number, a tensor or a text"),
    ],
)
def test_plain_rows_that_do_not_stack_are_one_line(row: dict[str, Any], message: str) -> None:
    rows = [{"x": torch.ones(3), "y": 1.0}] * 4 + [row]

    class OnDemand(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, number: int) -> Any:
            return rows[number]

    run = Trainer(Line(3, 1), loss=lambda o, b: (o.sum(), len(o)), train_dataset=OnDemand())
    with pytest.raises(InputError, match=message):
        run.fit()


def test_a_callback_class_without_arguments_is_taken() -> None:
    assert given(callbacks=None, progress=False).callbacks == []
    assert isinstance(given(callbacks=[Progress], progress=False).callbacks[0], Progress)


def test_progress_is_shown_once_and_not_at_all_if_unwanted() -> None:
    assert given().callbacks == [Progress(stream="stderr")]
    stops = EarlyStopping(2)
    assert given(callbacks=stops).callbacks == [Progress(stream="stderr"), stops]
    own = Progress()
    assert given(callbacks=own).callbacks == [own]
    assert given(progress=False).callbacks == []
    with pytest.raises(InputError, match="^progress: found str; accepted: True, False"):
        given(progress="no")


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
    number = Trainer(Line(3, 1), loss=lambda o, b: (o.sum().item(), len(o)), train_dataset=rows)
    with pytest.raises(InputError, match=r"loss: .* returned float as the sum; accepted: a tensor"):
        number.fit()


def test_a_model_with_the_head_of_another_task_is_refused(minilm: Path) -> None:
    model = AutoModelForMaskedLM.from_config(tiny_model().config)
    for sets in ({"train_dataset": ROWS}, {"eval_dataset": ROWS}, {}):
        recipe = SequenceClassification(labels=["a", "b"], problem="single_label")
        with pytest.raises(
            InputError, match="^model: BertForMaskedLM has the head 'masked_lm'; Se"
        ):
            Trainer(model, recipe, tokenizer=str(minilm), **sets)


def test_without_rows_the_labels_are_those_of_the_model(minilm: Path) -> None:
    """For `evaluate` and `predict`, which are given their rows later."""
    tokenizer = Tokenizer.from_pretrained(minilm)
    model = tiny_model(num_labels=2, vocab_size=len(tokenizer))
    model.config.id2label = {0: "a", 1: "b"}
    run = Trainer(model, SequenceClassification(), tokenizer=tokenizer, progress=False)
    assert run.evaluate(ROWS)["eval_loss"] > 0
    three = SequenceClassification(labels=["a", "b", "c"], problem="single_label")
    with pytest.raises(InputError, match="^model: its head has 2 labels, the recipe 3; accepted: "):
        Trainer(model, three, tokenizer=tokenizer)


def test_float64_weights_train_in_fp32_or_are_refused() -> None:
    settings = {"max_steps": 1, "global_batch_size": 4}
    run = given(train_dataset=ragged_table(4), settings=settings)
    assert run.setup.placement.precision == "fp32"
    run.fit()
    message = "^trainer.precision: found bf16, and 'body.* is in float64; accepted: fp32, or model"
    with pytest.raises(InputError, match=message):
        given(settings={**settings, "precision": "bf16"})


def test_without_gradients_nothing_is_trained() -> None:
    run = given(train_dataset=ragged_table(4), settings={"max_steps": 1})
    for switched_off in (torch.no_grad(), torch.inference_mode()):
        with switched_off, pytest.raises(InputError, match="^fit: gradients are switched off"):
            run.fit()
    run.model.requires_grad_(False)
    with pytest.raises(
        InputError, match="^model: no parameter of BertForSequenceC.* requires_grad"
    ):
        run.fit()


def test_an_evaluation_of_several_sets_or_none() -> None:
    run = given()
    sets = {"a": ragged_table(3), "b": ragged_table(5, seed=1)}
    assert run.evaluate(sets) == {
        f"eval_{name}_{metric}": value
        for name, rows in sets.items()
        for metric, value in ((key[5:], v) for key, v in run.evaluate(rows).items())
    }
    for call in (lambda: run.evaluate({}), lambda: given(eval_dataset=None).evaluate()):
        with pytest.raises(InputError, match="^evaluate: found no rows; accepted: evaluate"):
            call()
