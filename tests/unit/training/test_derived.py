"""Derived columns: outputs of the initial weights, computed once, as fields of every batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.distributed.heads import CASES
from tests.unit.text_runs import KillAt, Killed
from trainer.data import cache_locks
from trainer.data.batch import Samples
from trainer.devices.ranks import Ranks
from trainer.errors import InputError, NonFiniteSamples
from trainer.models.adapters.adapters_off import adapters_off
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.runs.context import DataOptions, RunContext
from trainer.settings import TrainSettings
from trainer.tasks.columns import Column, Columns
from trainer.tasks.losses import next_token_loss, sequence_log_probs, token_log_probs
from trainer.tasks.recipe import Axis, Recipe
from trainer.trainer import Trainer
from trainer.training.derived import StartingWeights, _non_finite

CASE = CASES["causal_lm"]
TABLE = CASE.table(9)


@dataclass(frozen=True)
class WithReference(Recipe):
    """The next-token loss, with the initial weights' log-probabilities as derived columns."""

    fields: ClassVar[Mapping[str, Axis]] = {"labels": "token"}
    derived: ClassVar[Mapping[str, Axis]] = {
        "reference": "sequence", "by_token": "token", "most": "sample",
    }  # fmt: skip
    scale: float = 1.0

    def derive(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
        assert not torch.is_grad_enabled()
        labels, lengths = batch["labels"], batch.sequence_lengths
        by_sequence = sequence_log_probs(outputs.projection, labels, lengths)
        return {
            "reference": by_sequence * self.scale,
            "by_token": token_log_probs(outputs.projection, labels),
            "most": torch.stack([by_sequence.exp(), -by_sequence], dim=1),
        }

    def loss(self, outputs: Any, batch: Any, *, label_smoothing: float = 0.0) -> Any:
        found = next_token_loss(outputs.projection, batch["labels"])
        return found.sum - batch["reference"].sum() * 0.0, found.count


@dataclass(frozen=True)
class Distance(Recipe):
    """A loss of the distance between log-probabilities and those of the initial weights."""

    fields: ClassVar[Mapping[str, Axis]] = {"labels": "token"}
    derived: ClassVar[Mapping[str, Axis]] = {"reference": "sequence"}
    predicted: ClassVar[Mapping[str, Axis]] = {"moved": "sample"}
    measures: ClassVar[Mapping[str, bool]] = {"moved": False}

    def derive(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
        return {"reference": self._log_probs(outputs, batch)}

    def loss(self, outputs: Any, batch: Any, *, label_smoothing: float = 0.0) -> Any:
        found = self._log_probs(outputs, batch)
        losses = (found - batch["reference"]).square() * 1e-4 - found * 1e-2
        return losses, torch.ones_like(losses)

    def predictions(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
        if "reference" not in batch:
            return {}
        return {"moved": (self._log_probs(outputs, batch) - batch["reference"]).abs()}

    def measure(self, loss: float, columns: Columns) -> dict[str, float]:
        return {"moved": float(columns["moved"].values.mean())}

    def _log_probs(self, outputs: Any, batch: Any) -> Tensor:
        return sequence_log_probs(outputs.projection, batch["labels"], batch.sequence_lengths)


def derived(
    cache_dir: Path | None = None, max_tokens: int = 60, model: Any = None, **options: Any
) -> Samples:
    model = model or CASE.model()
    recipe = WithReference(**options)
    start = StartingWeights(model, recipe, ranks=Ranks(), precision="fp32", cache_dir=cache_dir)
    return start.derive(TABLE, "dataset.train", max_tokens)


def test_every_batch_has_what_the_model_alone_gives() -> None:
    found, model = derived(), CASE.model().eval()
    assert found.fingerprint == TABLE.fingerprint
    for ids in ([4], [8, 0, 3], range(9)):
        batch = found.collate(ids)
        with torch.no_grad():
            alone = WithReference().derive(model(**batch.inputs()), batch)
        for name, wanted in alone.items():
            torch.testing.assert_close(batch[name], wanted, rtol=1e-12, atol=1e-12)
    placeholder = found.placeholder()
    assert len(placeholder["by_token"]) == placeholder.num_tokens == 1
    assert "reference" not in TABLE.collate([0])
    assert WithReference().has_loss(batch) and not WithReference().has_loss(TABLE.collate([0]))


def bits(samples: Samples) -> dict[str, bytes]:
    batch = samples.collate(range(9))
    return {name: batch[name].numpy().tobytes() for name in WithReference.derived}


def entries_in(cache_dir: Path) -> list[Path]:
    return [path for path in cache_dir.iterdir() if path.name != cache_locks.FOLDER]


def test_the_cache_gives_the_same_bits_and_knows_weights_recipe_and_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = derived(tmp_path)
    (entry,) = entries_in(tmp_path)
    calls = []
    monkeypatch.setattr(WithReference, "derive", _counted(WithReference.derive, calls))
    again = derived(tmp_path, max_tokens=500)  # with another budget, the same values are read
    assert not calls and bits(again) == bits(first)
    other = CASE.model()
    with torch.no_grad():
        next(other.parameters()).flatten()[0] += 1e-3
    derived(tmp_path, model=other)
    derived(tmp_path, scale=2.0)
    assert len(calls) > 1 and len(entries_in(tmp_path)) == 3
    (entry / "reference.npy").write_bytes(b"damaged")
    calls.clear()
    assert bits(derived(tmp_path)) == bits(first) and calls
    calls.clear()
    derived(tmp_path)
    assert not calls  # the damaged entry was recomputed


def _counted(derive: Any, calls: list[int]) -> Any:
    def counting(self: Any, outputs: Any, batch: Any) -> Any:
        calls.append(len(batch.sample_ids))
        return derive(self, outputs, batch)

    return counting


def test_an_interrupted_computation_leaves_nothing_and_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bits(derived())
    derive = WithReference.derive

    def killed(self: Any, outputs: Any, batch: Any) -> Any:
        if 0 in batch.sample_ids:
            raise KeyboardInterrupt
        return derive(self, outputs, batch)

    model = CASE.model().train()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(WithReference, "derive", killed)
        derived(tmp_path, model=model)
    assert model.training and not list(tmp_path.iterdir())
    assert bits(derived(tmp_path, model=model)) == whole


def test_adapters_are_off_and_no_part_of_the_digest(tmp_path: Path) -> None:
    plain = derived(tmp_path)
    model = CASE.model()
    model.add_lora(LoRASettings(rank=2, trainable_tokens=[7, 11]))
    inputs = TABLE.collate(range(9)).inputs()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "token_rows" in name:
                parameter.normal_()
        adapted = model.eval()(**inputs).logits
        with adapters_off(model):
            off = model(**inputs).logits
        assert torch.equal(off, CASE.model().eval()(**inputs).logits)
        assert torch.equal(model(**inputs).logits, adapted) and not torch.equal(off, adapted)
    assert bits(derived(model=model)) == bits(plain)
    derived(tmp_path, model=model)
    assert len(entries_in(tmp_path)) == 1


def test_what_cannot_be_derived_is_refused_in_a_line() -> None:
    model = CASE.model()
    with torch.no_grad():
        model.get_input_embeddings().weight[int(TABLE.input_ids[0])] = torch.nan
    with pytest.raises(NonFiniteSamples, match=r"^dataset.train: \d of 9 samples") as bad:
        derived(model=model)
    assert 0 in bad.value.samples

    class Undeclared(WithReference):
        derived = {"reference": "sample", "more": "token"}

        def derive(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
            return {"reference": torch.zeros(batch.num_samples)}

    start = StartingWeights(
        CASE.model(), Undeclared(), ranks=Ranks(), precision="fp32", cache_dir=None
    )
    with pytest.raises(InputError, match="Undeclared.derive: returned no 'more'"):
        start.derive(TABLE, "dataset.train", 60)
    with pytest.raises(InputError, match="cannot hold derived columns; accepted: rows"):
        start.derive(object(), "dataset.train", 60)  # type: ignore[arg-type]
    assert np.array_equal(TABLE.fields["labels"], CASE.table(9).fields["labels"])


def test_a_resumed_run_reads_the_same_columns_as_one_that_never_stopped(tmp_path: Path) -> None:
    """The loss depends on them; the reference stays that of the initial weights in both halves."""

    def trainer(folder: Path, cache: Path | None) -> Trainer:
        context = RunContext(data=DataOptions(cache_dir=cache))
        settings = TrainSettings(
            optimizer="sgd", learning_rate=0.5, global_batch_size=4, num_epochs=2, save_steps=2,
            eval_steps=3, precision="fp32",
        )  # fmt: skip
        return Trainer(
            CASE.model(), Distance(), settings, train_dataset=TABLE,
            eval_dataset=CASE.table(5, seed=1), output_dir=folder, context=context,
        )  # fmt: skip

    whole = trainer(tmp_path / "whole", None)
    results = whole.fit()
    assert results["metrics"]["eval_loss"] > 0 and results["metrics"]["eval_moved"] > 0
    for name, cache in (("cached", tmp_path / "cache"), ("computed", None)):
        half = trainer(tmp_path / name, cache)
        half.callbacks.append(KillAt(3))
        with pytest.raises(Killed):
            half.fit()
        again = trainer(tmp_path / name, cache)
        again.fit()
        assert again.state.step == whole.state.step == 6
        assert all(map(torch.equal, again.model.parameters(), whole.model.parameters()))
        found = again.train_samples.collate(range(9))["reference"]
        assert torch.equal(found, whole.train_samples.collate(range(9))["reference"])
    assert len(entries_in(tmp_path / "cache")) == 2


def test_an_evaluation_outside_of_training_has_the_starting_weights_or_no_loss(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = TrainSettings(precision="fp32")
    plain = Trainer(CASE.model(), Distance(), settings, eval_dataset=TABLE)
    assert "eval_loss" not in plain.evaluate()
    assert "the loss is not computed: it needs reference of the weights before" in caplog.text
    model = CASE.model()
    model.add_lora(LoRASettings(rank=2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    adapted = Trainer(model, Distance(), settings, eval_dataset=TABLE)
    assert adapted.evaluate()["eval_loss"] > 0
    assert adapted.evaluate(TABLE)["eval_moved"] > 0
    adapted.predict(TABLE)


def test_samples_with_values_that_are_not_finite_are_found_among_empty_ones() -> None:
    values = np.array([1.0, np.nan, 2.0, 3.0, np.inf])
    columns = {
        "entries": Column(values, np.array([0, 0, 2, 2, 4, 5, 5])),
        "whole": Column(np.array([[0.0, 1.0]] * 5 + [[0.0, np.nan]])),
        "numbers": Column(np.arange(6)),
    }
    assert _non_finite(columns, 6).tolist() == [1, 4, 5]
