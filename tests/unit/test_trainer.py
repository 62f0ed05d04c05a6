"""The Trainer: the files of a run, bitwise equal resumed runs, and plain modules."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.distributed import stopping
from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from trainer.callbacks.callback import Ask, Callback
from trainer.errors import InputError, NumericsError
from trainer.metrics.classification import Accuracy
from trainer.settings import TrainSettings
from trainer.trainer import Trainer

SETTINGS: dict[str, Any] = {
    "num_epochs": 3,
    "global_batch_size": 16,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "precision": "fp32",
}


def trainer(folder: Path | None, **settings: Any) -> Trainer:
    evaluation = ragged_table(20, seed=1)
    return Trainer(
        tiny_model().float(),
        RECIPES["single_label"],
        TrainSettings(**{**SETTINGS, **settings}),
        train_dataset=ragged_table(45),
        eval_dataset=evaluation,
        metrics={"accuracy": Accuracy()},
        output_dir=folder,
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(run: Trainer) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(run.model.parameters()).detach()


@dataclass
class KillAt(Callback):
    """Ends a run after a step like a killed process, without saving."""

    step: int

    def on_step_end(self, step: int, total_steps: int) -> None:
        if step == self.step:
            raise Killed


class Killed(BaseException):
    pass


def fit_with_kills(folder: Path, kills: list[int], **settings: Any) -> Trainer:
    for kill in kills:
        run = trainer(folder, **settings)
        run.callbacks.append(KillAt(kill))
        with pytest.raises(Killed):
            run.fit()
    run = trainer(folder, **settings)
    run.fit()
    return run


VARIANTS: dict[str, dict[str, Any]] = {
    "adamw": {"warmup_steps": 2},
    "ema and best": {"ema_decay": 0.9, "load_best_model_at_end": True, "lr_scheduler": "cosine"},
    "sgd with momentum": {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9}},
    "reduce on plateau": {
        "lr_scheduler": "reduce_on_plateau",
        "lr_scheduler_options": {"factor": 0.5, "patience": 0},
        "eval_steps": 1,
        "learning_rate": 3e-2,
    },
    "early stopping": {"early_stopping_patience": 2, "eval_steps": 1, "learning_rate": 3e-2},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_equals_never_stopped(tmp_path: Path, variant: str) -> None:
    """Bit for bit; killed within an epoch, at its end, right after a save, and twice."""
    settings = {"save_steps": 2, **VARIANTS[variant]}
    whole = trainer(tmp_path / "whole", **settings)
    results = whole.fit()
    for number, planned in enumerate(([1], [2], [3], [5, 5], [3, 7])):
        kills = [kill for kill in planned if kill < results["steps"]]
        folder = tmp_path / f"{number}"
        again = fit_with_kills(folder, kills, **settings)
        assert torch.equal(weights(again), weights(whole))
        assert again.state == whole.state
        assert without_speed(rows(folder)) == without_speed(rows(tmp_path / "whole"))
        model = (folder / "model" / "model.safetensors").read_bytes()
        assert model == (tmp_path / "whole" / "model" / "model.safetensors").read_bytes()


def without_speed(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in row.items() if not k.endswith(("per_second", "data_wait", "memory_gib"))}
        for row in found
    ]


def test_a_second_training_begins_at_the_full_rate() -> None:
    run = trainer(None, **VARIANTS["reduce on plateau"])
    for _ in range(2):
        run.fit()
        rates = [row["learning_rate"] for row in run.state.log_history if "loss" in row]
        assert rates[0] == 3e-2 > rates[-1]


def test_a_plateau_lowers_the_rate_of_the_steps_that_follow(tmp_path: Path) -> None:
    trainer(tmp_path, **VARIANTS["reduce on plateau"]).fit()
    rates, wanted = [row["learning_rate"] for row in rows(tmp_path) if "loss" in row], 3e-2
    best = -math.inf
    accuracies = [row["eval_accuracy"] for row in rows(tmp_path) if "eval_loss" in row]
    for rate, accuracy in zip(rates, accuracies, strict=True):
        assert rate == wanted
        wanted *= 1.0 if accuracy > best else 0.5
        best = max(best, accuracy)
    assert rates[-1] < rates[0]


def test_a_threshold_ends_a_run_whose_metric_creeps(tmp_path: Path) -> None:
    """In float64, since the loss creeps by a millionth in one step."""
    settings = {"early_stopping_patience": 2, "eval_steps": 1, "num_epochs": 3}

    def fitted(name: str, **more: float) -> dict[str, Any]:
        run = trainer(tmp_path / name, metric_for_best_model="loss", **settings, **more)
        run.model.double()
        return run.fit()

    plain, strict = fitted("a"), fitted("b", early_stopping_threshold=0.5)
    assert (strict["steps"], plain["steps"]) == (3, 9)
    assert strict["stopped"] == "no better evaluation in 2 in a row"


def test_label_smoothing_without_classes_is_refused() -> None:
    run = Trainer(
        tiny_model("regression", num_labels=1).float(),
        RECIPES["regression"],
        TrainSettings(**SETTINGS, label_smoothing=0.1),
        train_dataset=ragged_table(8, "regression"),
    )
    with pytest.raises(InputError, match="^trainer.label_smoothing: found 0.1, and the task has"):
        run.fit()


def test_evaluating_saving_and_logging_do_not_touch_training(tmp_path: Path) -> None:
    plain = trainer(None, eval_steps=0, save_steps=0, logging_steps=0)
    busy = trainer(tmp_path / "busy", eval_steps=1, save_steps=1)
    plain.fit()
    busy.fit()
    assert torch.equal(weights(plain), weights(busy))


def test_what_a_run_leaves(tmp_path: Path) -> None:
    run = trainer(tmp_path, save_steps=4)
    results = run.fit()
    assert results["steps"] == 9 and results["samples"] == 135 and results["epochs"] == 3
    found = rows(tmp_path)
    training = [row for row in found if "loss" in row]
    assert [row["step"] for row in training] == list(range(1, 10))
    assert [row["samples"] for row in training] == [16, 32, 45, 61, 77, 90, 106, 122, 135]
    assert training[-1]["tokens"] == 3 * run.train_samples.num_tokens == results["tokens"]
    evaluations = [row for row in found if "eval_loss" in row]
    assert [row["step"] for row in evaluations] == [3, 6, 9]
    assert evaluations[-1]["eval_accuracy"] == results["metrics"]["eval_accuracy"]
    assert json.loads((tmp_path / "results.json").read_text())["steps"] == 9
    assert {p.name for p in tmp_path.glob("checkpoint-*")} == {"checkpoint-8", "checkpoint-9"}
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").open()]
    losses = [line["loss"] for line in lines]
    assert losses == sorted(losses, reverse=True) and len(lines) == 20
    assert np.isclose(np.mean(losses), results["metrics"]["eval_loss"])


def test_the_logged_loss_is_the_optimised_loss(tmp_path: Path) -> None:
    """Without dropout, the first step's loss is that of the initial weights on its samples."""
    run = trainer(tmp_path, max_steps=1)
    for module in run.model.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    start = tiny_model().float().eval()
    run.fit()
    batch = run.train_samples.collate(run.session.plan.global_batch(0))
    with torch.no_grad():
        logits = start(**batch.inputs()).logits
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"]).item()
    assert rows(tmp_path)[0]["loss"] == pytest.approx(expected, rel=1e-5)


@dataclass
class Measured(Callback):
    """Keeps the numbers of each step."""

    def __post_init__(self) -> None:
        self.rows: list[Mapping[str, float]] = []

    def on_step_measured(self, row: Mapping[str, float]) -> None:
        self.rows.append(row)


def test_callbacks_get_the_loss_of_each_step_between_logged_rows(tmp_path: Path) -> None:
    run, measured = trainer(tmp_path, logging_steps=3), Measured()
    run.add_callback(measured)
    results = run.fit()
    losses = np.array([row["loss"] for row in measured.rows])
    assert [row["step"] for row in measured.rows] == list(range(1, 10))
    assert [row["loss"] for row in rows(tmp_path) if "loss" in row] == list(
        losses.reshape(3, 3).mean(axis=1)
    )
    assert all(row["samples_per_second"] > 0 <= row["data_wait"] for row in measured.rows)
    assert results["peak_memory_gib"] > 0.05


def test_evaluation_does_not_depend_on_its_batches() -> None:
    """From sums and counts: any token budget gives the same loss and metrics."""
    found = []
    for budget in (1, 100, 100_000):
        run = trainer(None, max_tokens_per_micro_batch=budget)
        run.model.double()
        found.append(run.evaluate())
    batch = run.eval_samples[""].collate(range(20))
    with torch.no_grad():
        logits = run.model.eval()(**batch.inputs()).logits
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"]).item()
    for evaluation in found:
        assert evaluation["eval_loss"] == pytest.approx(expected, rel=1e-12)
        assert evaluation["eval_accuracy"] == found[0]["eval_accuracy"]


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path: Path) -> None:
    run = trainer(tmp_path, save_steps=3)
    run.callbacks.append(PoisonAt(4, run.model))
    with pytest.raises(NumericsError, match=r"step 5: loss nan.*last good.*checkpoint-3") as error:
        run.fit()
    for sample in run.session.plan.global_batch(4):
        assert f" {sample}," in str(error.value) or f" {sample};" in str(error.value)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    assert not (tmp_path / "model").exists()


@dataclass
class PoisonAt(Callback):
    """Writes a NaN into the weights at the end of a step."""

    step: int
    model: torch.nn.Module

    def on_step_end(self, step: int, total_steps: int) -> None:
        if step == self.step:
            with torch.no_grad():
                next(self.model.parameters())[:] = float("nan")


def test_skip_leaves_weights_and_moments_untouched_and_gives_up_in_the_end(tmp_path: Path) -> None:
    run = trainer(tmp_path, non_finite="skip", num_epochs=20, eval_steps=0, save_steps=0)
    run.callbacks.append(PoisonAt(4, run.model))
    with pytest.raises(NumericsError, match="step 25"):
        run.fit()
    skipped = [row for row in rows(tmp_path) if row.get("skipped_steps")]
    assert skipped[0]["step"] == 5 and skipped[0]["loss"] is None


def test_early_stopping_and_the_best_model(tmp_path: Path) -> None:
    run = trainer(
        tmp_path,
        num_epochs=50,
        learning_rate=3e-2,
        early_stopping_patience=2,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    results = run.fit()
    assert results["stopped"] and results["steps"] < 150
    losses = {row["step"]: row["eval_loss"] for row in rows(tmp_path) if "eval_loss" in row}
    best = min(losses, key=losses.__getitem__)
    assert results["best"]["step"] == best == results["model_step"]
    assert results["metrics"]["eval_loss"] == pytest.approx(losses[best], rel=1e-6)


def test_a_finished_run_is_complete_and_can_be_extended(tmp_path: Path) -> None:
    first = trainer(tmp_path)
    first.fit()
    assert first.folder is not None
    assert first.folder.completed(TrainSettings(**SETTINGS), "") is not None
    assert first.folder.completed(TrainSettings(**SETTINGS), "another config") is None
    longer = {**SETTINGS, "num_epochs": 5}
    assert first.folder.completed(TrainSettings(**longer), "") is None
    results = trainer(tmp_path, num_epochs=5).fit()
    assert results["steps"] == 15
    assert [row["step"] for row in rows(tmp_path) if "loss" in row] == list(range(1, 16))


def test_a_second_fit_finds_what_the_first_one_did(tmp_path: Path) -> None:
    """Its final metrics belong to the last weights, although the first fit saved the best."""
    settings = {"eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True}
    run = stopping.build(tmp_path, learning_rate=0.05, optimizer="sgd", **settings)
    first, second = run.fit(), run.fit()
    assert first["model_step"] != 10 and first["last_metrics"] != first["metrics"]
    measured = {"seconds": 0, "peak_memory_gib": 0}  # the process's peak may rise in between
    assert first | measured == second | measured


def test_a_changed_run_is_not_resumed_unasked(tmp_path: Path) -> None:
    trainer(tmp_path, max_steps=3, save_steps=3).fit()
    with pytest.raises(InputError, match=r"global_batch_size: found 8"):
        trainer(tmp_path, global_batch_size=8).fit()
    refusal = (
        r"trainer.learning_rate: found 1.0; the checkpoint of step 3 has 0.001; accepted: "
        r"the same, trainer.allow_changes=\[trainer.learning_rate\], or another output_dir"
    )
    with pytest.raises(InputError, match=refusal):
        trainer(tmp_path, learning_rate=1.0).fit()
    trainer(
        tmp_path,
        learning_rate=1e-4,
        optimizer="sgd",
        ema_decay=0.5,
        allow_changes=[
            "trainer.learning_rate",
            "trainer.optimizer",
            "trainer.ema_decay",
        ],
    ).fit()


def test_what_differs_is_named_as_users_know_it(tmp_path: Path) -> None:
    """Model, recipe and data too; each is allowed by its name or by its group's name."""
    trainer(tmp_path, max_steps=3, save_steps=3).fit()

    def changed(allow: list[str]) -> Trainer:
        return Trainer(
            tiny_model(hidden_dropout_prob=0.3).float(),
            dataclasses.replace(RECIPES["single_label"], max_length=64),
            TrainSettings(**SETTINGS, allow_changes=allow),
            train_dataset=ragged_table(40),
            eval_dataset=ragged_table(20, seed=1),
            metrics={"accuracy": Accuracy()},
            output_dir=tmp_path,
            seed=43,
        )

    with pytest.raises(InputError) as refused:
        changed([]).fit()
    for words in (
        "seed: found 43; the checkpoint of step 3 has 42",
        "dataset: found 40 samples (",
        "model.hidden_dropout_prob: found 0.3; the checkpoint of step 3 has 0.1",
        "recipe.max_length: found 64; the checkpoint of step 3 has 128",
    ):
        assert words in str(refused.value)
    with pytest.raises(InputError, match=r"^recipe.max_length: found 64[^;]*; [^;]* has 128; acc"):
        changed(["seed", "dataset", "model"]).fit()
    changed(["seed", "dataset", "model.hidden_dropout_prob", "recipe"]).fit()


def test_a_finished_run_without_checkpoints_is_not_overwritten(tmp_path: Path) -> None:
    trainer(tmp_path, save_steps=0).fit()
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="holds a finished run and no checkpoint"):
        trainer(tmp_path, save_steps=0, num_epochs=5).fit()
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


def test_rows_logged_over_several_steps_are_those_of_one_run(tmp_path: Path) -> None:
    settings = {"logging_steps": 5, "save_steps": 3}
    trainer(tmp_path / "whole", **settings).fit()
    fit_with_kills(tmp_path / "cut", [4], **settings)
    assert without_speed(rows(tmp_path / "cut")) == without_speed(rows(tmp_path / "whole"))


@dataclass
class DieWhenSaved(Callback):
    """Ends a run between a checkpoint and the next action."""

    step: int

    def on_save(self, checkpoint: Path) -> None:
        if checkpoint.name == f"checkpoint-{self.step}":
            raise Killed


def test_an_early_stop_is_remembered(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "early_stopping_patience": 2,
        "eval_steps": 1,
        "learning_rate": 3e-2,
        "num_epochs": 9,
    }
    whole = trainer(tmp_path / "whole", **settings)
    steps = whole.fit()["steps"]
    run = trainer(tmp_path / "cut", **settings)
    run.callbacks.append(DieWhenSaved(steps))
    with pytest.raises(Killed):
        run.fit()
    again = trainer(tmp_path / "cut", **settings)
    assert again.fit()["steps"] == steps
    assert torch.equal(weights(again), weights(whole))


def test_a_plain_loss_sums_in_fp32_under_bf16() -> None:
    seen = []

    def loss(outputs: Any, batch: Any) -> tuple[torch.Tensor, int]:
        seen.append(outputs.dtype)
        return outputs.square().sum(), len(outputs)

    rows = [{"input": torch.randn(3)} for _ in range(4)]
    settings = TrainSettings(precision="bf16", num_epochs=1, global_batch_size=4)
    Trainer(torch.nn.Linear(3, 1), loss=loss, settings=settings, train_dataset=rows).fit()
    assert seen == [torch.float32]


def test_evaluation_rows_without_labels_are_refused() -> None:
    unlabelled = ragged_table(20)
    unlabelled.fields.clear()
    with pytest.raises(InputError, match="no column 'label'"):
        Trainer(tiny_model(), RECIPES["single_label"], eval_dataset=unlabelled)


def test_a_plain_module_with_a_plain_loss_trains(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=generator)
    y = x @ torch.tensor([1.0, -2.0, 3.0]) + 0.5
    data = [{"x": a, "y": b} for a, b in zip(x, y, strict=True)]

    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).squeeze(-1)

    def squared(outputs: torch.Tensor, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return (outputs - batch["y"]).square().sum(), torch.tensor(float(len(outputs)))

    settings = TrainSettings(num_epochs=20, learning_rate=0.05, precision="fp32", weight_decay=0.0)
    torch.manual_seed(3)  # from some initial weights, the steps do not reach the solution
    run = Trainer(Line(), loss=squared, settings=settings, train_dataset=data, output_dir=tmp_path)
    results = run.fit()
    assert results["steps"] == 140
    assert run.evaluate(data)["eval_loss"] < 1e-3
    assert torch.allclose(run.model.layer.weight, torch.tensor([[1.0, -2.0, 3.0]]), atol=0.05)


def test_labels_are_learnt_from_rows_and_given_to_the_model(minilm: Path) -> None:
    from recipes.sequence_classification import SequenceClassification
    from trainer.tokenizer import Tokenizer

    rows = [{"text": "a b", "label": "yes"}, {"text": "c", "label": "no"}]
    tokenizer = Tokenizer.from_pretrained(minilm)
    sizes = {"vocab_size": tokenizer.vocab_size}
    settings = TrainSettings(max_steps=1)
    for num_labels in (2, 3):
        model = tiny_model(num_labels=num_labels, **sizes).float()

        def build(model: Any = model) -> Trainer:
            return Trainer(
                model,
                SequenceClassification(max_length=64),
                settings,
                tokenizer=tokenizer,
                train_dataset=rows,
            )

        if num_labels == 3:
            with pytest.raises(InputError, match="has 3 labels, the recipe 2"):
                build()
        else:
            build().fit()
            assert model.config.id2label == {0: "no", 1: "yes"}


@dataclass
class StopAt(Callback):
    """Asks to stop after a step, between two evaluations."""

    step: int

    def on_step_end(self, step: int, total_steps: int) -> Ask | None:
        return Ask(stop=True, reason="enough") if step == self.step else None


@pytest.mark.parametrize(("interval", "steps"), [(2, [2, 3]), (10, [3]), (0, [])])
def test_the_last_steps_before_a_stop_are_logged(
    tmp_path: Path, interval: int, steps: list[int]
) -> None:
    run = trainer(tmp_path, logging_steps=interval, eval_steps=0)
    run.callbacks.append(StopAt(3))
    run.fit()
    assert [row["step"] for row in run.state.log_history if "loss" in row] == steps


def test_a_stop_between_evaluations_is_measured_before_the_best_is_chosen(tmp_path: Path) -> None:
    """The loss falls at each step, so the last model is the best and is saved."""
    settings = {"eval_steps": 3, "load_best_model_at_end": True, "metric_for_best_model": "loss"}
    run = trainer(tmp_path, **settings)
    run.callbacks.append(StopAt(5))
    results = run.fit()
    losses = {row["step"]: row["eval_loss"] for row in rows(tmp_path) if "eval_loss" in row}
    assert list(losses) == [3, 5] and losses[5] < losses[3]
    assert results["best"]["step"] == results["model_step"] == results["steps"] == 5
