"""Streams: rows are read once, in order, and again on resume; their end ends a run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from recipes.sequence_classification import SequenceClassification
from tests.unit.test_exactness import tiny_model
from tests.unit.test_trainer import KillAt, Killed, without_speed
from tests.unit.test_trainer import rows as logged
from tests.unit.training.plain_runs import rows, trainer, weights
from trainer.data.streams import StreamRows
from trainer.errors import InputError
from trainer.settings import TrainSettings
from trainer.tokenizer import Tokenizer
from trainer.trainer import Trainer

STEPS = {"max_steps": 5, "save_steps": 2}


class Rows(torch.utils.data.IterableDataset[Any]):
    """24 rows, with noise from torch's generator; counts how often each was read."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[Any]:
        for row in rows():
            self.read += 1
            yield {**row, "x": row["x"] + torch.rand(()).double() / 8}


def test_a_stream_begins_again_and_keeps_its_order() -> None:
    kept = [{"x": row["x"]} for row in rows()]
    seen = StreamRows(Dataset.from_list(kept).to_iterable_dataset(), "here", seed=0)
    found = [float(seen[number]["x"]) for number in range(60)]
    assert found == pytest.approx([float(kept[number % 24]["x"]) for number in range(60)])
    seen.forget_before(50)
    assert float(seen[50]["x"]) == pytest.approx(float(kept[2]["x"]))
    with pytest.raises(InputError, match="^here: row 49 of the stream was dropped and is needed"):
        seen[49]
    seen.rewind()
    assert float(seen[0]["x"]) == pytest.approx(float(kept[0]["x"]))
    once = StreamRows(iter(kept), "here", seed=0)
    assert once.has(9)
    once.forget_before(3)
    with pytest.raises(InputError, match="^here: this iterator has been used up by a training run"):
        once.rewind()
    with pytest.raises(InputError, match="^here: the stream has no rows"):
        StreamRows(iter(()), "here", seed=0)[0]


def test_a_stream_that_is_rewound_is_told_its_epochs_again() -> None:
    class Epochs(torch.utils.data.IterableDataset[Any]):
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Iterator[Any]:
            return iter([f"{self.epoch}.{row}" for row in range(3)])

    seen = StreamRows(Epochs(), "here", seed=0)
    first = [seen[number] for number in range(5)]
    assert first == ["0.0", "0.1", "0.2", "1.0", "1.1"]
    seen.forget_before(4)
    seen.rewind()
    assert [seen[number] for number in range(5)] == first


def test_a_stream_is_trained_on_in_its_order_for_any_split() -> None:
    """Equal to training on the same rows by hand: 5 steps of 8 over 24 rows restart once."""
    ordered = [{**row} for row in rows()]
    found = []
    for micro in (None, 3):
        run = trainer(iter(ordered * 2), settings={"max_steps": 5, "micro_batch_size": micro})
        assert run.fit()["samples"] == 40
        found.append(weights(run))
    weight, bias = 0.5, -1.0
    for step in range(5):
        picked = [ordered[n % 24] for n in range(step * 8, step * 8 + 8)]
        x, y = (np.array([float(row[n]) for row in picked]) for n in ("x", "labels"))
        error = weight * x + bias - y
        gradient = np.array([(2 * error * x).mean(), (2 * error).mean()])
        weight, bias = np.array([weight, bias]) - 0.05 * gradient * min(
            1.0, 1.0 / (np.linalg.norm(gradient) + 1e-6)
        )
    assert np.allclose(found[0], found[1], rtol=1e-12, atol=0)
    assert np.allclose(found[0], [weight, bias], rtol=1e-9)


def test_a_resumed_stream_equals_one_that_never_stopped(tmp_path: Path) -> None:
    """On resume, rows are read again and dropped; noise is a function of the position."""
    whole = trainer(Rows(), tmp_path / "whole", settings=STEPS)
    whole.fit()
    for kill in (1, 3, 4):
        folder = tmp_path / str(kill)
        cut = trainer(Rows(), folder, settings=STEPS)
        cut.callbacks.append(KillAt(kill))
        with pytest.raises(Killed):
            cut.fit()
        again = trainer(Rows(), folder, settings=STEPS)
        again.fit()
        assert weights(again) == weights(whole)
        assert without_speed(logged(folder)) == without_speed(logged(tmp_path / "whole"))


def test_another_stream_is_not_continued(tmp_path: Path) -> None:
    trainer(iter(rows()), tmp_path, settings={"max_steps": 2, "save_steps": 1}).fit()
    run = trainer(iter(rows()[1:]), tmp_path, settings={"max_steps": 3, "save_steps": 1})
    with pytest.raises(InputError, match="dataset.train|data"):
        run.fit()


def test_the_end_of_an_iterator_ends_the_run_with_what_it_learnt(tmp_path: Path) -> None:
    run = trainer(iter(rows()[:20]), tmp_path, settings={"max_steps": 9})
    results = run.fit()
    assert (results["steps"], results["stopped"]) == (
        3,
        "the stream of training rows ended at step 3",
    )
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_a_stream_needs_steps() -> None:
    with pytest.raises(InputError, match="^trainer.max_steps: found null, but the data has no end"):
        trainer(iter(rows()))


def test_few_rows_are_held_in_memory() -> None:
    class Endless(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            while True:
                yield from rows()

    run = trainer(Endless(), settings={"max_steps": 100})
    run.fit()
    samples: Any = run.train_samples
    assert len(samples.rows._kept) <= 5 * 8


TEXTS = [{"text": f"a {n} b" * (1 + n % 3), "label": "ab"[n % 2]} for n in range(100)]


def of_text(minilm: Path, stream: Any, folder: Path | None = None, **settings: Any) -> Trainer:
    tokenizer = Tokenizer.from_pretrained(minilm)
    model = tiny_model(num_labels=2, vocab_size=len(tokenizer))
    values = {
        "global_batch_size": 16,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "precision": "fp32",
    }
    recipe = SequenceClassification(problem="single_label", labels=["a", "b"], max_length=16)
    return Trainer(
        model, recipe, TrainSettings(**{**values, **settings}), tokenizer=tokenizer,
        train_dataset=stream, output_dir=folder,
    )  # fmt: skip


def parameters(run: Trainer) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(run.model.parameters()).detach()


def test_a_recipe_tokenizes_a_stream_as_it_comes(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Across chunks: any split gives the same result, and so does a resumed run."""
    monkeypatch.setattr("trainer.data.streams.CHUNK", 20)
    settings = {"max_steps": 6, "save_steps": 4}
    whole = of_text(minilm, iter(TEXTS), tmp_path / "whole", **settings)
    assert whole.fit()["samples"] == 6 * 16
    split = of_text(minilm, iter(TEXTS), micro_batch_size=3, max_steps=6)
    split.fit()
    assert (parameters(split) - parameters(whole)).norm() <= 1e-12 * parameters(whole).norm()
    cut = of_text(minilm, iter(TEXTS), tmp_path / "cut", **settings)
    cut.callbacks.append(KillAt(5))
    with pytest.raises(Killed):
        cut.fit()
    again = of_text(minilm, iter(TEXTS), tmp_path / "cut", **settings)
    again.fit()
    assert torch.equal(parameters(again), parameters(whole))


def test_labels_of_a_stream_are_given(minilm: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(minilm)
    model = tiny_model(num_labels=2, vocab_size=len(tokenizer))
    with pytest.raises(
        InputError, match="^recipe.labels: not known; .*the rows of a stream are not re"
    ):
        Trainer(
            model, SequenceClassification(), {"max_steps": 1}, tokenizer=tokenizer,
            train_dataset=iter(TEXTS),
        )  # fmt: skip
