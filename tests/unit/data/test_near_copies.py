"""Near-copies: equal and nearly equal texts, within a set and between sets."""

import random
import re
from typing import Any

import numpy as np

from recipes.causal_lm import CausalLM
from recipes.sequence_classification import SequenceClassification
from tests.unit.text_runs import tokenizer
from trainer.data.in_memory_rows import as_table
from trainer.data.near_copies import Copies, Signatures, Texts
from trainer.data.set_facts import Prepared, SetFacts, facts_of
from trainer.data.tokens import TokenTable, tokenize
from trainer.rendering.set_facts import facts_text
from trainer.tasks.recipe import Recipe


def texts(*rows: list[int]) -> Texts:
    ends = np.cumsum([0, *map(len, rows)])
    return Texts(np.concatenate([np.array(row, dtype=np.int32) for row in rows]), ends)


def drawn(seed: int, size: int = 60) -> list[int]:
    return random.Random(seed).choices(range(1000), k=size)


def changed(row: list[int], number: int) -> list[int]:
    """The row with `number` other tokens."""
    found = list(row)
    for place in range(number):
        found[place * 7] = 1000 + place
    return found


def test_equal_and_nearly_equal_texts_are_counted_once() -> None:
    a, b = drawn(1), drawn(2)
    own = Signatures(texts(a, b, a, changed(a, 2), a, changed(b, 8), [5], [5], [5, 6]))
    assert own.copies() == Copies(exact=3, near=1, compared=6, texts=9)
    assert Signatures(texts(a, a, changed(a, 2)), near=False).copies() == Copies(1, 0, 0, 3)


def test_texts_of_another_set_are_found() -> None:
    a, b, c = drawn(1), drawn(2), drawn(3)
    trained = Signatures(texts(a, b))
    assert trained.copies_in(Signatures(texts(c, a, changed(b, 2), a))) == Copies(2, 1, 3, 4)


def test_any_single_text_is_compared_with_another_set() -> None:
    """Half of the digests are above what a signed integer holds."""
    for seed in range(8):
        same, other = drawn(seed), drawn(seed + 100)
        found = Signatures(texts(same, same)).copies_in(Signatures(texts(other, same)))
        assert (found.exact, found.texts) == (1, 2)


def test_near_copies_are_those_that_an_exhaustive_comparison_finds() -> None:
    """The share of equal shingles of each pair, against 0.6; pairs close to it may be missed."""
    rows = [drawn(n) for n in range(40)]
    rows += [changed(rows[n], n % 7) for n in range(40)]
    trained, held = texts(*rows[:40]), texts(*rows[40:])
    found = Signatures(trained).copies_in(Signatures(held))

    def shingles(row: list[int]) -> set[tuple[int, ...]]:
        return {tuple(row[n : n + 3]) for n in range(len(row) - 2)}

    shares = [
        len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))
        for a, b in zip(rows[:40], rows[40:], strict=True)
    ]
    surely = sum(0.7 < share < 1 for share in shares)
    perhaps = sum(0.5 < share < 1 for share in shares)
    assert found.exact == shares.count(1.0) == 6
    assert surely * 0.9 <= found.near <= perhaps and surely > 10


def table(recipe: Recipe, rows: list[dict[str, Any]]) -> TokenTable:
    given = {"cache_dir": None, "where": "x", "progress": False}
    return tokenize(as_table(rows), recipe, tokenizer(), **given)


def test_documents_of_blocks_are_compared_whole() -> None:
    long = " ".join(f"{n} and why" for n in range(40))
    rows = [{"text": text} for text in ("hello world", long, "why so?", long, "hello world")]
    made = table(CausalLM(max_length=16), rows)
    found = Texts.of(made)
    assert len(found) == 5
    assert found[1].tolist() == found[3].tolist() and len(found[1]) > 16
    assert Signatures(found).copies().exact == 2


def test_the_facts_of_a_set() -> None:
    recipe = SequenceClassification(problem="single_label", labels=["a", "b"], max_length=8)
    rows = [
        {"text": f"{n % 9} hello world, what " * 3, "label": "ab"[n % 3 == 0]} for n in range(12)
    ]
    sets = {
        "dataset.train": Prepared(table(recipe, rows), recipe, trained_on=True),
        "dataset.validation": Prepared(table(recipe, rows[:2]), recipe, trained_on=False),
    }
    found = facts_of(sets, near=False)
    trained = found["dataset.train"]
    assert isinstance(trained, SetFacts)
    assert (trained.samples, trained.tokens, trained.truncated) == (12, 96, 12)
    assert set(trained.lengths.values()) == {8} and trained.classes == {"a": 8, "b": 4}
    assert trained.copies == Copies(3, 0, 0, 12) and trained.trained == {}
    assert found["dataset.validation"].trained == {"dataset.train": Copies(2, 0, 0, 2)}


def test_copies_among_the_documents_of_blocks_are_shares_of_the_documents() -> None:
    recipe = CausalLM(max_length=128)
    made = table(recipe, [{"text": text} for text in ("hello world", "why so?", "hello world")] * 2)
    sets = {"dataset.train": Prepared(made, recipe, trained_on=True)}
    sets["dataset.validation"] = Prepared(made, recipe, trained_on=False)
    found = facts_of(sets, near=False)
    assert found["dataset.train"].samples == 1
    shown = facts_text("dataset.train", found["dataset.train"]).plain
    assert re.search(r"copies +4 repeated \(67 ?%\) of 6 documents", shown)
    shown = facts_text("dataset.validation", found["dataset.validation"]).plain
    assert re.search(r"in dataset.train +6 there too \(100 ?%\) of 6 documents", shown)
