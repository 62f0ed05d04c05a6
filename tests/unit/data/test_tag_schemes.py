"""Tag schemes: detected, completed, checked, and read leniently as by seqeval."""

import random

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from trainer.data.tag_schemes import complete, fault_of, scheme_of, spans_of, tags_of
from trainer.errors import InputError


def test_any_tags_are_read_as_seqeval_reads_them() -> None:
    generator = random.Random(1)
    tags = ["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("x", "y-z"))]
    for _ in range(3000):
        row = generator.choices(tags, k=generator.randint(0, 8))
        theirs = [(start, end + 1, kind) for kind, start, end in get_entities(row)]
        assert spans_of(row) == theirs, row


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["O", "B-a", "I-a"], "BIO"),
        (["O", "I-a"], "IO"),
        (["O", "per"], "IO"),
        (["O", "S-a", "B-a"], "BIOES"),
        (["NOUN", "VERB"], "none"),
    ],
)
def test_the_scheme_is_told_from_the_tags(tags: list[str], scheme: str) -> None:
    assert scheme_of(tags) == scheme


def test_tags_of_two_kinds_and_bilou_are_refused() -> None:
    with pytest.raises(InputError, match="BILOU; accepted: BIOES"):
        scheme_of(["O", "U-per"])
    with pytest.raises(InputError, match=r"a prefix \(B-a\) and without one \(loc\)"):
        scheme_of(["O", "B-a", "loc"])


def test_labels_hold_every_prefix_of_each_type() -> None:
    assert complete(["B-b", "B-a"], "BIO") == ["O", "B-a", "I-a", "B-b", "I-b"]
    assert complete(["per", "O"], "IO") == ["O", "per"]
    assert complete(["VERB", "NOUN"], "none") == ["NOUN", "VERB"]
    assert complete(["per", "O", "B-x"], "none") == ["O", "B-x", "per"]


def test_spans_become_tags_that_keep_the_scheme_and_mean_the_same() -> None:
    spans = [(0, 1, "a"), (1, 4, "a"), (5, 7, "b")]
    assert tags_of(spans, 8, "BIOES") == ["S-a", "B-a", "I-a", "E-a", "O", "B-b", "E-b", "O"]
    for scheme in ("BIO", "BIOES"):
        tags = tags_of(spans, 8, scheme)
        assert fault_of(tags, scheme) is None
        assert spans_of(tags) == spans
    assert tags_of(spans, 8, "IO", bare=True) == ["a", "a", "a", "a", "O", "b", "b", "O"]


@pytest.mark.parametrize(
    ("scheme", "tags", "place"),
    [
        ("BIO", ["O", "I-a"], 1),
        ("BIO", ["B-a", "I-b"], 1),
        ("BIO", ["B-a", "E-a"], 1),
        ("BIOES", ["B-a"], 0),
        ("BIOES", ["B-a", "O"], 1),
        ("BIOES", ["S-a", "I-a"], 1),
        ("BIOES", ["B-a", "I-a", "B-a"], 2),
        ("BIOES", ["E-a"], 0),
    ],
)
def test_what_breaks_a_scheme_is_found(scheme: str, tags: list[str], place: int) -> None:
    fault = fault_of(tags, scheme)
    assert fault is not None and fault[0] == place
    mended = tags_of(spans_of(tags), len(tags), scheme)
    assert fault_of(mended, scheme) is None
