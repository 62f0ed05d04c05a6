"""Evaluation: predictions along any axis, each sample's loss, and comparisons of any kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.distributed.heads import CASES
from trainer.data.entries import entries_per_sample
from trainer.data.sample_rows import SampleRows
from trainer.data.tokens import TokenTable
from trainer.devices.ranks import Ranks
from trainer.errors import InputError
from trainer.metrics.classification import Accuracy
from trainer.metrics.metric import Metric
from trainer.settings import TrainSettings
from trainer.tasks.columns import Columns
from trainer.tasks.comparison import Comparison
from trainer.tasks.losses import cross_entropy
from trainer.tasks.recipe import Axis, Recipe
from trainer.trainer import Trainer
from trainer.training import gathering
from trainer.training.evaluation import Wanted, evaluate
from trainer.training.gathering import Parts, columns_of

MODEL = CASES["token_classification"].model()


@dataclass(frozen=True)
class Tags(Recipe):
    """A class for some tokens of samples with several sequences; lists of them are compared."""

    fields: ClassVar[Mapping[str, Axis]] = {"labels": "token"}
    predicted: ClassVar[Mapping[str, Axis]] = {
        "tags": "token", "first": "sequence", "size": "sample", "references": "token",
    }  # fmt: skip
    kind: str = "tags"
    measures: ClassVar[Mapping[str, bool]] = {"tags_per_sample": True}

    def loss(self, outputs: Any, batch: Any, *, label_smoothing: float = 0.0) -> Any:
        return cross_entropy(outputs.logits, batch["labels"])

    def predictions(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
        lengths = batch.sequence_lengths
        return {
            "tags": outputs.logits.argmax(-1),
            "first": outputs.logits[lengths.cumsum(0) - lengths].bfloat16(),
            "size": torch.zeros(batch.num_samples).index_add_(
                0, batch.sequence_sample, lengths.float()
            ),
            "references": batch["labels"],
        }

    @property
    def compares(self) -> str:
        return self.kind

    def comparison(self, columns: Columns, rows: SampleRows) -> Comparison:
        return Comparison(
            self.kind, columns["tags"].tolist(), columns["references"].tolist(), ["O", "B"]
        )

    def measure(self, loss: float, columns: Columns) -> dict[str, float]:
        return {"tags_per_sample": float(len(columns["tags"].values) / len(columns["tags"]))}

    def answers(self, columns: Columns, rows: SampleRows) -> list[dict[str, Any]]:
        return [{"tags": tags} for tags in columns["tags"].tolist()]


@dataclass
class SameTags(Metric):
    """The share of samples with all tags right, from lists of Python ints."""

    kinds: ClassVar[tuple[str, ...]] = ("tags",)
    greater_is_better = True

    def names(self) -> tuple[str, ...]:
        return ("same_tags",)

    def compute(self, predictions: Any, references: Any) -> dict[str, float]:
        assert type(predictions[0]) is list and type(predictions[0][0]) is int
        right = [found == wanted for found, wanted in zip(predictions, references, strict=True)]
        return {"same_tags": sum(right) / len(right)}


def table(num_samples: int = 17) -> TokenTable:
    """Samples of 0 to 3 further sequences, of 1 to 11 tokens each."""
    rng = np.random.default_rng(0)
    sequences = rng.integers(1, 5, num_samples)
    lengths = rng.integers(1, 12, sequences.sum())
    ids = rng.integers(5, 97, lengths.sum()).astype(np.int32)
    labels = rng.integers(0, 5, len(ids))
    labels[rng.random(len(ids)) < 0.5] = -100
    return TokenTable(
        input_ids=ids,
        token_type_ids=None,
        sequence_offsets=np.concatenate([[0], np.cumsum(lengths)]),
        sample_offsets=np.concatenate([[0], np.cumsum(sequences)]),
        fields={"labels": labels.astype(np.int64)},
        axes=Tags.fields,
    )


def forward(batch: Any) -> Any:
    return MODEL.eval()(**batch.inputs())


def evaluated(max_tokens: int, metrics: Mapping[str, Metric] | None = None, **options: Any) -> Any:
    recipe = Tags(**options)
    return evaluate(
        forward, recipe, table(), Wanted(metrics or {}), max_tokens=max_tokens, ranks=Ranks()
    )


@pytest.mark.parametrize("max_tokens", [1, 60, 10_000])
def test_ragged_columns_are_what_each_sample_alone_gives(max_tokens: int) -> None:
    samples = table()
    found = evaluated(max_tokens, {"same": SameTags()})
    for number in range(len(samples)):
        batch = samples.collate([number])
        with torch.no_grad():
            alone = Tags().predictions(forward(batch), batch)
            sums, counts = Tags().loss(forward(batch), batch)
        for name, tensor in alone.items():
            wanted = tensor.float().numpy() if name == "first" else tensor.numpy()
            entries = found.predictions[name][number]
            np.testing.assert_allclose(entries, wanted[0] if name == "size" else wanted, rtol=2e-2)
        mean = float(sums.sum() / counts.sum())
        np.testing.assert_allclose(found.losses[number], mean, rtol=1e-12)
    assert found.predictions["tags"].offsets.tolist() == [0, *np.cumsum(samples.lengths)]
    assert found.predictions["first"].offsets.tolist() == samples.sample_offsets.tolist()
    assert set(found.metrics) == {"loss", "tags_per_sample", "same_tags"}
    assert 0 <= found.metrics["same_tags"] < 1


def test_two_ranks_parts_are_one_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        gathering, "MAX_BYTES_ON_DEVICE", -1
    )  # copied to the host after every batch
    batches = [np.array([4, 1]), np.array([0]), np.array([3, 2])]
    ranks = [Parts(), Parts()]
    for number, batch in enumerate(batches):
        collated = table().collate(batch)
        entries = entries_per_sample(collated)
        measured = {"prediction.ids": collated.input_ids}
        measured["entries.token"] = torch.from_numpy(entries["token"])
        ranks[number % 2].add(number, measured)
    gathered = [part.arrays() for part in ranks]
    found = columns_of(gathered, batches, 5, {"ids": "token", "absent": "sample"}, "prediction.")
    whole = table().collate(range(5))
    assert list(found) == ["ids"]
    np.testing.assert_array_equal(found["ids"].values, whole.input_ids)
    assert np.diff(found["ids"].offsets).tolist() == table().lengths[:5].tolist()
    assert (
        entries_per_sample(whole)["sequence"].tolist()
        == np.diff(table().sample_offsets[:6]).tolist()
    )


def test_parts_of_ranks_with_other_shapes_are_refused() -> None:
    """numpy would repeat the single column, or end in a traceback."""
    ranks = [Parts(), Parts()]
    for number, width in enumerate((3, 1)):
        ranks[number].add(number, {"prediction.x": torch.zeros(1, width)})
    gathered, batches = [part.arrays() for part in ranks], [np.array([0]), np.array([1])]
    with pytest.raises(
        InputError, match=r"predictions: 'x' has entries of shape \(3,\) and \(1,\)"
    ):
        columns_of(gathered, batches, 2, {"x": "sample"}, "prediction.")


def test_a_sample_of_several_sequences_that_is_not_finite_is_named() -> None:
    samples = table()
    token = int(samples.input_ids[-1])
    expected = {n for n in range(17) if token in samples.collate([n]).input_ids}
    assert 0 < len(expected) < 17
    weight = MODEL.get_input_embeddings().weight
    with torch.no_grad():
        before = weight[token].clone()
        weight[token] = torch.nan
        found = evaluated(60, {"same": SameTags()})
        weight[token] = before
    assert set(found.non_finite.tolist()) == expected
    assert found.comparison is None and np.isnan(found.metrics["same_tags"])
    assert np.isnan(found.metrics["tags_per_sample"])
    assert np.isnan(found.losses[sorted(expected)]).all()


def test_classes_of_tokens_have_a_report_and_answers_are_written() -> None:
    from trainer.runs.outcome import class_report, prediction_lines

    @dataclass(frozen=True)
    class Classes(Tags):
        kind: str = "classes"

        def comparison(self, columns: Columns, rows: SampleRows) -> Comparison:
            kept = columns["references"].values != -100
            values = (columns[name].values[kept] for name in ("tags", "references"))
            return Comparison(self.kind, *values, names=list("abcde"))

    run = Trainer(
        MODEL, Classes(), TrainSettings(precision="fp32"), eval_dataset=table(), metrics="accuracy"
    )  # noqa: E501
    results = run.evaluate()
    report = class_report(run.evaluations[""])
    assert report is not None
    labelled = int((table().fields["labels"] != -100).sum())
    assert sum(row["support"] for row in report["classes"]) == labelled
    right = sum(report["confusion"][i][i] for i in range(5))
    assert results["eval_accuracy"] == pytest.approx(right / labelled)
    lines = list(prediction_lines(run.evaluations[""], run.setup.sample_rows("")))
    assert len(lines) == 17 and '"tags": [' in lines[0] and '"loss": ' in lines[0]
    predicted = run.predict(table())
    assert [len(tags) for tags in predicted["tags"]] == table().lengths.tolist()
    assert run.answers(table())[3] == {"tags": predicted["tags"][3].tolist()}


def test_metrics_of_another_kind_are_refused_in_a_line() -> None:
    settings = TrainSettings(precision="fp32")
    with pytest.raises(InputError) as refused:
        Trainer(MODEL, Tags(), settings, eval_dataset=table(), metrics="accuracy")
    assert str(refused.value) == (
        "metrics.accuracy: compares classes or label_sets, Tags gives tags; "
        "accepted: a metric for tags, or metrics=none"
    )
    with pytest.raises(InputError, match="same_tags: compares tags, Tags gives classes; accepted"):
        Trainer(MODEL, Tags(kind="classes"), settings, metrics=SameTags())
    with pytest.raises(InputError, match="NextToken compares nothing"):
        Trainer(MODEL, CASES["causal_lm"].recipe, settings, metrics=Accuracy())


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"tags": "sample"}, "'tags' has 114 entries; accepted: one for each sample, 4"),
        ({"tags": "sequence"}, "'tags' has 114 entries; accepted: one for each sequence, 10"),
        ({"others": "token"}, "'tags' is not declared; accepted: others"),
    ],
)
def test_predictions_along_another_axis_are_refused(declared: Any, message: str) -> None:
    class Wrong(Tags):
        predicted = declared

        def predictions(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
            return {"tags": outputs.logits.argmax(-1)}

    samples = table(4)
    counts = f"{samples.num_tokens}", f"{len(samples.sequence_offsets) - 1}"
    expected = message.replace("114", counts[0]).replace("sequence, 10", f"sequence, {counts[1]}")
    with pytest.raises(InputError) as refused:
        evaluate(forward, Wrong(), samples, Wanted(), max_tokens=10_000, ranks=Ranks())
    assert expected in str(refused.value)
