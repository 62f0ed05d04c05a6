"""Every row of docs/differences.md on the Trainer holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.sequence_classification import SequenceClassification
from tests.unit.training.plain_runs import Line, rows, trainer
from trainer.callbacks.callback import Callback
from trainer.errors import InputError, NumericsError
from trainer.settings import TrainSettings
from trainer.trainer import Trainer
from trainer.training.schedules import learning_rate

transformers = pytest.importorskip("transformers")


def refused(message: str, **settings: Any) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        with pytest.raises(InputError, match=message):
            trainer(rows(), settings={"max_steps": 1, **settings}).fit()

    return check


def refused_all(*names: str) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        for name in names:
            with pytest.raises(InputError, match=f"no setting '{name}'; "):
                TrainSettings(**{name: 1})  # type: ignore[arg-type]
            known = getattr(transformers.TrainingArguments, "__dataclass_fields__", {})
            assert name in known or name in ("shuffle",), name

    return check


def batch_sizes(folder: Path) -> None:
    assert trainer(rows(), settings={"global_batch_size": 12, "num_epochs": 1}).fit()["steps"] == 2


def first_step(folder: Path) -> None:
    settings = TrainSettings(learning_rate=1.0, warmup_steps=4)
    assert learning_rate(0, 10, settings) == 0.2
    optimizer = torch.optim.SGD(Line().parameters(), lr=1.0)
    theirs = transformers.get_linear_schedule_with_warmup(optimizer, 4, 10)
    assert theirs.get_last_lr() == [0.0]


def mean_loss(folder: Path) -> None:
    run = trainer(rows(), model=Line("dict"), loss=lambda o, b: o["loss"])
    with pytest.raises(InputError, match="or omit loss= if the model returns its own loss"):
        run.fit()


def not_finite(folder: Path) -> None:
    with pytest.raises(NumericsError, match="^step 1: loss nan"):
        trainer([{**rows()[0], "labels": torch.tensor(torch.nan)}]).fit()


def same_folder(folder: Path) -> None:
    settings = {"max_steps": 2, "save_steps": 1}
    trainer(rows(), folder, settings=settings).fit()
    assert trainer(rows(), folder, settings={**settings, "max_steps": 3}).fit()["steps"] == 3
    with pytest.raises(InputError, match="resume"):
        trainer(rows(), folder, settings={**settings, "resume": "never"}).fit()


def directions(folder: Path) -> None:
    run = trainer(rows(), eval_dataset=rows(), metrics="mse", settings={"max_steps": 1})
    assert run.metrics["mse"].greater_is_better is False


def other_parameters(folder: Path) -> None:
    sgd = torch.optim.SGD(Line().parameters(), lr=0.1)
    with pytest.raises(InputError, match="2 of its 2 parameters are not the model's"):
        trainer(rows(), optimizers=(sgd, None), settings={"optimizer": "adamw"})


def two_schedules(folder: Path) -> None:
    refused("here it is cosine with", lr_scheduler="cosine_with_min_lr")(folder)
    refused("here it is wsd", lr_scheduler="warmup_stable_decay")(folder)


def eight_bits(folder: Path) -> None:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        refused("adamw_8bit needs bitsandbytes", optimizer="adamw_8bit")(folder)


def other_optimizers(folder: Path) -> None:
    for name in ("lion_32bit", "lamb", "galore_adamw"):
        refused("here it is adamw, the nearest one, or your own optimizer", optimizer=name)(folder)


def callbacks(folder: Path) -> None:
    names = Callback.on_step_end.__code__.co_varnames
    assert names == ("self", "step", "total_steps")


def answered(*names: str) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        for name in names:
            assert hasattr(transformers.Trainer, name)
            with pytest.raises(AttributeError, match="; here: "):
                getattr(trainer(None), name)

    return check


def sweeps(folder: Path) -> None:
    answered("hyperparameter_search")(folder)
    with pytest.raises(InputError, match="no argument 'model_init'; here it is model=...; a sweep"):
        Trainer(model_init=Line)


def of_transformers(folder: Path) -> None:
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, intermediate_size=12, vocab_size=30)
    theirs = transformers.BertForSequenceClassification(config)
    with pytest.raises(InputError, match="found transformers' BertForSequenceClassification"):
        Trainer(theirs, SequenceClassification(problem="single_label", labels=["a", "b"]))


def predictions(folder: Path) -> None:
    assert trainer(None).predict(rows())["outputs"].shape == (24,)


ROWS: dict[str, Callable[[Path], None]] = {
    "batch sizes": batch_sizes,
    "the learning rate of the first step of a warm-up of `w` steps": first_step,
    '`loss=lambda o, b: o["loss"]`, a mean': mean_loss,
    "a loss or gradient that is not finite": not_finite,
    "a run in a folder that already holds a run": same_folder,
    "the best metric's direction": directions,
    "an optimizer for parameters that are not the model's": other_parameters,
    "`cosine_with_min_lr`, `warmup_stable_decay`": two_schedules,
    "`schedule_free_adamw`": refused(
        "accepted: constant", optimizer="schedule_free_adamw", lr_scheduler="linear"
    ),
    "`adamw_8bit`, and other optimizers from packages": eight_bits,
    "`lion`, `lamb`, `galore` and others": other_optimizers,
    "`save_total_limit=1`": refused("save_total_limit: found 1", save_total_limit=1),
    "`save_only_model`": refused_all("save_only_model"),
    "callbacks": callbacks,
    "`get_train_dataloader`, `create_optimizer`, `training_step` and others": answered(
        "get_train_dataloader", "create_optimizer", "training_step"
    ),
    "`model_init`, `hyperparameter_search`": sweeps,
    "`dataloader_num_workers`, `dataloader_drop_last`, `group_by_length`": refused_all(
        "dataloader_num_workers", "dataloader_drop_last"
    ),
    "`shuffle=False`": refused_all("shuffle"),
    "`batch_eval_metrics`": refused_all("batch_eval_metrics"),
    "`neftune_noise_alpha`": refused_all("neftune_noise_alpha"),
    "`optim_target_modules`": refused_all("optim_target_modules"),
    "models of transformers with a recipe of ours": of_transformers,
    "`predict`": predictions,
}


def test_every_row_is_held(repository: Path) -> None:
    page = (repository / "docs/differences.md").read_text(encoding="utf-8")
    section = page.split("## Trainer\n")[1].split("\n## ")[0]
    found = [line.split(" | ")[0].removeprefix("| ") for line in section.splitlines()[3:] if line]
    assert found == list(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_a_documented_difference_is_one(row: str, tmp_path: Path) -> None:
    ROWS[row](tmp_path)
