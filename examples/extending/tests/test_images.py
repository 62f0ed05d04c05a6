"""Image classification: training, resuming, evaluating and predicting, by Python and commands."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from examples.extending.digits import Digits
from examples.extending.heads.image_classification import ImageClassifier, ImageClassifierConfig
from examples.extending.images import ImageProcessor
from examples.extending.recipes.image_classification import ImageClassification
from trainer import Trainer, TrainSettings, registry
from trainer.config.saved_recipe import recipe_of
from trainer.data.preprocessing import samples_of
from trainer.data.read_options import BadRows
from trainer.errors import InputError, RowError

pytestmark = pytest.mark.usefixtures("alone")

SMALL = {"hidden_size": 16, "num_layers": 1, "num_heads": 2}


def trainer(folder: str | None = None, **settings: object) -> Trainer:
    """A Trainer of a small model on 120 digits, evaluated on 30 others."""
    splits = Digits(num_rows=150, validation_fraction=0.2).load()
    torch.manual_seed(0)
    chosen = {"max_steps": 6, "save_steps": 3, "learning_rate": 1e-2, "precision": "fp32"}
    return Trainer(
        ImageClassifier.from_config(SMALL),
        ImageClassification(largest=16),
        TrainSettings(**{**chosen, **settings}),
        train_dataset=splits.train,
        eval_dataset=splits.validation,
        metrics="accuracy",
        output_dir=folder,
    )


def test_a_resumed_run_is_the_same_to_the_bit_and_its_folder_reloads(trusted: None) -> None:
    whole = trainer("whole")
    results = whole.fit()
    assert results["steps"] == 6 and 0 <= results["metrics"]["eval_accuracy"] <= 1
    resumed = trainer("resumed", resume=str(Path("whole/checkpoint-3").absolute()))
    resumed.fit()
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name

    recipe = recipe_of("whole/model")
    assert isinstance(recipe, ImageClassification) and recipe.labels == list("0123456789")
    again = Trainer(Path("whole/model"), recipe, TrainSettings(precision="fp32"))
    rows = Digits(num_rows=20, validation_fraction=0).load().train
    for name, found in whole.predict(rows).items():
        assert np.array_equal(found, again.predict(rows)[name])
    assert again.tokenizer == ImageProcessor(16)
    assert again.answers(rows.remove_columns("label"))[0].keys() == {"label", "score"}


def test_any_split_of_a_batch_gives_the_same_step(trusted: None) -> None:
    updates = []
    for size in (32, 5):
        run = trainer(
            max_steps=1, optimizer="sgd", learning_rate=10.0, micro_batch_size=size, max_grad_norm=0
        )
        before = torch.cat([w.flatten() for w in run.model.state_dict().values()])
        run.fit()
        after = torch.cat([w.flatten() for w in run.model.state_dict().values()])
        updates.append(after - before)
    assert updates[0].norm() > 0
    assert (updates[0] - updates[1]).norm() / updates[0].norm() < 1e-5


def test_commands(ask: Callable) -> None:
    small = [f"model.config.{name}={value}" for name, value in SMALL.items()]
    few = ("dataset.num_rows=120", "trainer.max_steps=2", "trainer.precision=fp32")
    done = ask("experiment=digits", *few, *small, "output_dir=run")
    assert done.code == 0, done.err
    assert "input.file='...'" in done.out and "ImageClassifier" in done.out
    assert "nothing to do" in ask("experiment=digits", *few, *small, "output_dir=run").out
    done = ask("from=run", "job=evaluate", "output_dir=measured")
    assert done.code == 0, done.err
    before, after = (
        json.loads(Path(p).read_text()) for p in ("run/results.json", "measured/evaluation.json")
    )
    assert after["metrics"]["eval_loss"] == pytest.approx(before["metrics"]["eval_loss"], rel=1e-5)

    rows = Digits(num_rows=3).load().train.remove_columns("label").to_list()
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = ask("job=predict", "model.path=run/model", "input.file=rows.jsonl")
    assert done.code == 0, done.err
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert len(answers) == 3 and all(answer["label"] in "0123456789" for answer in answers)
    done = ask("job=inspect", "experiment=digits", *few)
    assert done.code == 0 and "108 rows, 108 samples" in done.out, done.err

    for arguments, said in (
        (("job=predict", "model.path=run/model", "input.text=a"), "reads no text"),
        (("experiment=digits", "model.lora.rank=2"), "has no adapters"),
        (("experiment=digits", "model.config.hiden_size=3"), "did you mean 'hidden_size'?"),
        (("experiment=digits", "model.config.hidden_size=3"), "divisible by"),
        (("experiment=digits", "tokenizer.train=true"), "reads no text"),
        (("experiment=digits", "recipe.image=image"), "no column 'image'"),
    ):
        done = ask(*arguments, "output_dir=refused")
        assert done.code == 2 and said in done.err and done.err.count("\n") == 1, done

    registry._trusted.clear()
    done = ask("job=predict", "model.path=run/model", "input.file=rows.jsonl", flags=())
    assert done.code == 2 and "trusted_packages=[examples.extending] on the command" in done.err


def test_a_bad_row_of_other_samples_is_named() -> None:
    """A recipe that makes its own samples cannot drop rows: an error says so."""
    images = [[[0, 1], [2, 3]], [[0, 1], [2]]]
    rows = Dataset.from_dict({"image": images, "label": ["a", "b"]})
    recipe = ImageClassification("image", labels=["a", "b"], image_size=2, channels=1)
    for policy, said in (("error", "numbers$"), ("drop", "; dataset.bad_rows=drop does not apply")):
        with pytest.raises(InputError, match=f"^train row 1: found .*{said}"):
            samples_of(
                rows, recipe, ImageProcessor(16), where="train", bad_rows=BadRows(policy, 0.5)
            )


def test_wrong_images_and_sizes_are_refused() -> None:
    processor = ImageProcessor(16)
    with pytest.raises(RowError, match=r"shape \[2, 2, 1\]; accepted: \[8, 8, 1\]") as caught:
        processor([np.zeros((8, 8)), np.zeros((2, 2))], 8, 1)
    assert caught.value.row == 1
    with pytest.raises(RowError, match="accepted: rows of numbers"):
        processor(["a"], 8, 1)
    scaled = processor([np.full((2, 2), 16), np.zeros((2, 2))], 2, 1)
    assert scaled.shape == (2, 1, 2, 2) and scaled[0].max() == 1 and scaled[1].min() == -1
    with pytest.raises(InputError, match="divisible by patch_size"):
        ImageClassifierConfig(image_size=9)
