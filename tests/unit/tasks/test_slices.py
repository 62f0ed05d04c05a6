"""Slices: the evaluation of a slice equals that of its rows alone, for every recipe."""

import dataclasses
from typing import Any

import pytest

from recipes.causal_lm import CausalLM
from recipes.masked_lm import MaskedLM
from tests.unit.text_runs import BERT, CASES, LLAMA, TEXTS, Case, wordpiece
from trainer.data.in_memory_rows import as_table
from trainer.errors import InputError
from trainer.metrics.named import metrics_of
from trainer.tasks.slices import check_slices

SLICED = {
    "tags, bert": ["entity_f1"],
    "questions, bert": ["squad_no_answer"],
    "choices, bert": ["accuracy"],
    "targets, t5": [],
    "lists, bert": ["ndcg"],
    "pairs, rewards": [],
    "pairs, orpo, adapters": [],
}
"""Case -> its metrics"""


def sliced(case: Case, metrics: list[str]) -> tuple[Any, list[dict[str, Any]]]:
    """A trainer with evaluation slices by the column `kind`, and rows with that column."""
    recipe = dataclasses.replace(case.recipe, slices="kind")  # type: ignore[type-var]
    rows = [{**row, "kind": f"kind {n % 2}"} for n, row in enumerate(case.rows)]
    trainer = dataclasses.replace(case, recipe=recipe, rows=rows).trainer(evaluated=False)
    trainer.setup.metrics.clear()
    trainer.setup.metrics.update(metrics_of(metrics))
    return trainer, rows


def figures(found: dict[str, float], prefix: str) -> dict[str, float]:
    return {
        name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)
    }


@pytest.mark.parametrize("name", SLICED)
def test_a_slice_is_measured_as_its_rows_alone(name: str) -> None:
    trainer, rows = sliced(CASES[name], SLICED[name])
    if hasattr(trainer.recipe, "no_answer_threshold"):
        recipe = dataclasses.replace(trainer.recipe, no_answer=True, no_answer_threshold=0.0)
        trainer.setup = trainer.evaluator.setup = dataclasses.replace(trainer.setup, recipe=recipe)
    whole = trainer.evaluate(rows)
    for kind in (0, 1):
        alone = trainer.evaluate([row for row in rows if row["kind"] == f"kind {kind}"])
        wanted = {k: v for k, v in figures(alone, "eval_").items() if not k.startswith("kind_")}
        found = figures(whole, f"eval_kind_{kind}_")
        assert found.pop("samples") == len(rows[kind::2])
        assert found == pytest.approx(wanted, rel=1e-9, nan_ok=True)
        assert len(found) > len(SLICED[name])


@pytest.mark.parametrize("stride", [0, 3])
def test_blocks_measure_the_tokens_of_each_documents_slice(stride: int) -> None:
    """Blocks hold documents of both slices; each document's loss counts in its own slice."""
    case = Case(CausalLM(max_length=24, stride=stride), TEXTS, LLAMA)
    trainer, rows = sliced(case, [])
    found = trainer.evaluate(rows)
    assert [found[f"eval_kind_{kind}_samples"] for kind in (0, 1)] == [5, 4]
    samples, tokens = trainer.setup.samples_of(trainer.setup.table_of(rows, "t"), "t"), [0, 0]
    for number in range(len(samples)):
        batch = samples.collate([number])
        labels = trainer.recipe.trained_on(batch).split(batch.sequence_lengths.tolist())
        first = samples.sample_offsets[number]
        for place, learnt in enumerate(labels):
            tokens[samples.sequence_rows[first + place] % 2] += int(learnt.sum())
    total = sum(tokens[kind] * found[f"eval_kind_{kind}_loss"] for kind in (0, 1))
    assert found["eval_loss"] == pytest.approx(total / sum(tokens), rel=1e-12)
    assert found["eval_kind_0_loss"] != pytest.approx(found["eval_kind_1_loss"], rel=1e-6)


def test_documents_that_fill_whole_blocks_are_measured_as_alone() -> None:
    text = "hello world, what is two and two? "
    rows = [{"text": text * (2 + n)} for n in range(4)]
    trainer, rows = sliced(Case(CausalLM(max_length=250), rows, LLAMA), [])
    whole = trainer.evaluate(rows)
    for kind in (0, 1):
        alone = trainer.evaluate(rows[kind::2])
        for name in ("loss", "perplexity", "token_accuracy"):
            wanted = alone[f"eval_{name}"]
            assert whole[f"eval_kind_{kind}_{name}"] == pytest.approx(wanted, rel=1e-12)


def test_masked_blocks_have_slices() -> None:
    recipe = MaskedLM(max_length=24, mask_probability=0.5)
    trainer, rows = sliced(Case(recipe, TEXTS, BERT, words=wordpiece), [])
    found = trainer.evaluate(rows)
    assert found["eval_kind_0_samples"] + found["eval_kind_1_samples"] == len(TEXTS)
    assert {"eval_kind_0_perplexity", "eval_kind_1_token_accuracy"} <= found.keys()


def test_empty_cells_of_both_kinds_are_one_slice() -> None:
    trainer, rows = sliced(CASES["choices, bert"], [])
    for number, row in enumerate(rows):
        row["kind"] = [None, "", "a"][number % 3]
    found = trainer.evaluate(rows)
    assert (found["eval_none_samples"], found["eval_a_samples"]) == (8, 4)
    rows[0]["kind"] = "none"
    with pytest.raises(
        InputError, match="recipe.slices: 'kind' has 'none' and '', both named none"
    ):
        trainer.evaluate(rows)


def test_a_task_of_several_has_slices_of_its_own() -> None:
    case = CASES["tasks, bert"]
    tasks = {**case.recipe.tasks}  # type: ignore[attr-defined]
    tasks["kind"] = dataclasses.replace(tasks["kind"], slices="group")
    case = dataclasses.replace(case, recipe=dataclasses.replace(case.recipe, tasks=tasks))
    rows = [{**row, "group": "ab"[n % 3 == 0]} for n, row in enumerate(case.rows)]
    trainer = dataclasses.replace(case, rows=rows).trainer(evaluated=False)
    whole = trainer.evaluate(rows)
    sizes = [whole[f"eval_kind_{name}_samples"] for name in "ab"]
    assert sum(sizes) == whole["eval_kind_samples"] and min(sizes) > 0
    for name in "ab":
        alone = trainer.evaluate([row for row in rows if row["group"] == name])
        for figure in ("loss", "accuracy", "f1_macro", "samples"):
            found = whole[f"eval_kind_{name}_{figure}"]
            assert found == pytest.approx(alone[f"eval_kind_{figure}"], rel=1e-9)
    with pytest.raises(InputError, match="recipe.tasks.kind.slices: dataset has no column 'group'"):
        trainer.evaluate(list(CASES["tasks, bert"].rows))
    of_another_task = dataclasses.replace(case.recipe, task="tags")  # type: ignore[type-var]
    check_slices(of_another_task, as_table([{"words": ["a"], "tags": ["O"]}]), "dataset")


def test_a_column_that_rows_lack_is_refused() -> None:
    trainer, _ = sliced(CASES["choices, bert"], [])
    rows = list(CASES["choices, bert"].rows)
    with pytest.raises(InputError, match="recipe.slices: dataset has no column 'kind'"):
        trainer.evaluate(rows)
