"""Entity scores: equal to seqeval and to nervaluate's strict scheme, on any tags."""

import random

import nervaluate
import pytest
import seqeval.metrics

from trainer.data.tag_schemes import spans_of
from trainer.errors import InputError
from trainer.metrics.entities import EntityF1, EntityPrecision, EntityRecall, entity_counts
from trainer.metrics.named import metrics_of

TAGS = {
    "BIO": ["O", "B-per", "I-per", "B-loc", "I-loc"],
    "BIOES": ["O", "B-a", "I-a", "E-a", "S-a", "B-b-c", "I-b-c", "E-b-c", "S-b-c"],
    "IO": ["O", "I-per", "I-loc"],
}


def rows(scheme: str, seed: int) -> list[list[str]]:
    """Random tags, most of which break their scheme."""
    generator = random.Random(seed)
    return [generator.choices(TAGS[scheme], k=1 + number % 12) for number in range(60)]


def spans(tags: list[list[str]]) -> list[list[tuple[int, int, str]]]:
    return [spans_of(row) for row in tags]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scheme", TAGS)
def test_scores_are_those_of_seqeval(scheme: str) -> None:
    for seed in range(5):
        wanted, found = rows(scheme, 2 * seed), rows(scheme, 2 * seed + 1)
        found[::3] = wanted[::3]
        report = seqeval.metrics.classification_report(
            wanted, found, output_dict=True, zero_division=0
        )
        for average in ("micro", "macro", "weighted"):
            theirs = report[f"{average} avg"]
            for metric, name in (
                (EntityPrecision(average), "precision"),
                (EntityRecall(average), "recall"),
                (EntityF1(average), "f1-score"),
            ):
                (value,) = metric.compute(spans(found), spans(wanted)).values()
                assert value == pytest.approx(theirs[name], abs=1e-12), (average, name)
        for kind, counts in entity_counts(spans(found), spans(wanted)).items():
            theirs = report[kind]
            ours = (counts.precision, counts.recall, counts.f1, counts.wanted)
            names = ("precision", "recall", "f1-score", "support")
            assert ours == pytest.approx([theirs[name] for name in names], abs=1e-12)


def test_scores_are_those_of_nervaluate_in_its_strict_scheme() -> None:
    """On valid tags, since the two packages read invalid ones differently."""
    generator = random.Random(3)
    both = []
    for _ in range(2):
        both.append([])
        for _ in range(80):
            row: list[str] = []
            while len(row) < 12:
                kind = generator.choice(["O", "per", "loc"])
                row += (
                    ["O"]
                    if kind == "O"
                    else [f"B-{kind}", *[f"I-{kind}"] * generator.choice((0, 1))]
                )
            both[-1].append(row[:12])
    wanted, found = both
    evaluator = nervaluate.Evaluator(wanted, found, tags=["per", "loc"], loader="list")
    strict = evaluator.evaluate()["overall"]["strict"]
    (f1,) = EntityF1().compute(spans(found), spans(wanted)).values()
    (precision,) = EntityPrecision().compute(spans(found), spans(wanted)).values()
    (recall,) = EntityRecall().compute(spans(found), spans(wanted)).values()
    assert 0.05 < f1 < 0.95
    assert (precision, recall, f1) == pytest.approx((strict.precision, strict.recall, strict.f1))


def test_names_types_and_nothing_to_compare() -> None:
    wanted = [[(0, 1, "a"), (2, 3, "b")], []]
    found = [[(0, 1, "a"), (2, 3, "a")], [(0, 1, "b")]]
    assert EntityF1(type="a").compute(found, wanted) == {"entity_f1_a": pytest.approx(2 / 3)}
    assert EntityF1("macro").names() == ("entity_f1_macro",)
    (value,) = EntityF1().compute([[]], [[]]).values()
    assert value != value
    assert list(metrics_of(["entity_f1", "entity_recall_macro"])) == [
        "entity_f1",
        "entity_recall_macro",
    ]
    with pytest.raises(InputError, match="accepted: average: micro, macro, weighted"):
        EntityF1("binary")
