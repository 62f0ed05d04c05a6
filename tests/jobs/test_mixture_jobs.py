"""A mixture on the command line: trained, shown, evaluated by source, repeated."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import launch
from tests.jobs.conftest import FAST

MIXTURE = (
    "dataset.mixture={a: {dataset: train.jsonl, weight: 1}, "
    "b: {dataset: {train: other.jsonl, validation: {x: other.jsonl, y: dev.jsonl}}, weight: 3, "
    "columns: {kind: label}, recipe: {text: body, max_length: 9}, max_rows: 20}}"
)


def test_a_mixture_from_the_command_line(
    table: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in Path("dev.jsonl").read_text().splitlines()]
    renamed = [{"body": row["text"], "kind": row["label"]} for row in rows]
    for name in ("other.jsonl", "dev.jsonl"):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in renamed))
    asked = [f"model.path={tiny}", MIXTURE, *FAST[:1], "trainer.max_steps=4"]
    asked += ["trainer.logging_steps=2", "trainer.global_batch_size=8", "trainer.report=false"]
    assert launch.main([*asked, "output_dir=run"]) == 0
    assert re.search(r"mixture: 7\d\.\d% b, \d+ samples per epoch", capsys.readouterr().out)
    logged = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert {"loss", "a_loss", "b_loss"} <= logged[0].keys()
    assert {"eval_a_loss", "eval_b_x_loss", "eval_b_y_accuracy"} <= logged[-1].keys()
    assert launch.main(["from=run", "job=evaluate", "output_dir=again"]) == 0
    found = json.loads(Path("again/evaluation.json").read_text())["metrics"]
    results = json.loads(Path("run/results.json").read_text())["metrics"]
    assert {name: found[name] for name in results} == pytest.approx(results)
    assert launch.main(["from=run", "output_dir=run"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert launch.main(["job=inspect", "inspect.samples=1", *asked[:2]]) == 0
    printed = capsys.readouterr().out
    assert "dataset.mixture.b  20 rows, 20 samples" in printed
    assert "body (text), label (text)" in printed
    missing = MIXTURE.replace("train.jsonl", "{validation: dev.jsonl}")
    assert launch.main([f"model.path={tiny}", missing, "output_dir=c"]) == 2
    said = "error: dataset.mixture.a: nothing to train on; accepted: a data set with training rows"
    assert said in capsys.readouterr().err


def test_sources_without_validation_rows_are_evaluated_on_their_test_rows(
    trained: Path, ask: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Training rows of a source are never evaluated, and a source without others is named."""
    rows = [json.loads(line) for line in Path("dev.jsonl").read_text().splitlines()][:9]
    texts = [{"body": row["text"], "kind": row["label"]} for row in rows]
    Path("texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    none = "train: train.jsonl, validation_fraction: 0"
    sources = (
        f"a: {{dataset: {{{none}, test: dev.jsonl}}}}",
        "b: {dataset: {train: texts.jsonl, test: texts.jsonl, validation_fraction: 0},"
        " recipe: {text: body}, columns: {kind: label}}",
        "c: {dataset: {train: train.jsonl, validation: dev.jsonl, test: texts.jsonl}}",
        f"d: {{dataset: {{{none}}}}}",
    )
    asked = ("job=evaluate", f"model.path={trained / 'model'}", "output_dir=tests-of-sources")
    answer = ask(*asked, f"dataset.mixture={{{', '.join(sources)}}}")
    assert answer.code == 0, answer.err
    found = json.loads(Path("tests-of-sources/evaluation.json").read_text())["metrics"]
    assert {name for name in found if name.endswith("_loss")} == {
        "eval_a_loss",
        "eval_b_loss",
        "eval_c_loss",
    }
    assert "c 40, a 40, b 9" in answer.out
    unread = "not evaluated: the source has neither validation nor test rows"
    assert f"dataset.mixture.d: {unread}" in caplog.messages
    refusal = ask(*asked, f"dataset.mixture={{{sources[3]}}}")
    assert refusal.code == 2 and "error: dataset.mixture: nothing to evaluate on" in refusal.err


def test_every_source_of_a_mixture_is_predicted(
    trained: Path, ask: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Each row names its source, also of a source with a whole recipe of its own."""
    rows = [json.loads(line) for line in Path("dev.jsonl").read_text().splitlines()][:9]
    texts = [{"set": "x", "body": row["text"], "kind": row["label"]} for row in rows]
    Path("bodies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    none = "train: train.jsonl, validation_fraction: 0"
    kind = "_target_: recipes.sequence_classification.SequenceClassification"
    sources = (
        f"a: {{dataset: {{{none}, validation: dev.jsonl, test: dev.jsonl}}}}",
        "b: {dataset: {train: bodies.jsonl, validation: {x: bodies.jsonl, y: bodies.jsonl}},"
        f" recipe: {{{kind}, text: body}}, columns: {{kind: label}}}}",
        f"c: {{dataset: {{{none}}}}}",
    )
    asked = ("job=predict", f"model.path={trained / 'model'}")
    answer = ask(*asked, f"dataset.mixture={{{', '.join(sources)}}}", "output.file=found.csv")
    assert answer.code == 0, answer.err
    with Path("found.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["set"] for row in found] == ["a"] * 40 + ["b_x"] * 9 + ["b_y"] * 9
    for first, others in ((0, found[40:49]), (0, found[49:58])):
        for row, other in zip(found[first : first + 9], others, strict=True):
            assert row["text"] == other["body"] and other["input_set"] == "x"
            assert float(row["score"]) == pytest.approx(float(other["score"]), abs=1e-5)
    unread = "not predicted: the source has neither test nor validation rows"
    assert f"dataset.mixture.c: {unread}" in caplog.messages
    refusal = ask(*asked, f"dataset.mixture={{{sources[2]}}}")
    assert refusal.code == 2 and "error: dataset.mixture: nothing to predict" in refusal.err
    named = "dataset.validation={x: dev.jsonl, y: bodies.jsonl}"
    answer = ask(*asked, named, "recipe.text=text")
    assert answer.code == 2 and "error: input (y): no column 'text'" in answer.err
    mixture = f"dataset.mixture={{{', '.join(sources[:2])}}}"
    run = ask(*asked[1:], mixture, *FAST[:1], "trainer.max_steps=1", "output_dir=whole-recipe")
    assert run.code == 0, run.err
    results = json.loads(Path("whole-recipe/results.json").read_text())["metrics"]
    assert results["eval_b_x_accuracy"] == results["eval_b_y_accuracy"] > 0


@pytest.mark.parametrize("job", ["evaluate", "predict"])
def test_options_of_a_source_are_checked_by_its_name(
    trained: Path, ask: Callable[..., Any], job: str
) -> None:
    """Not by the name of its sets, of which it may have several."""
    asked = (f"job={job}", f"model.path={trained / 'model'}")
    for options, said in {
        "max_lenth: 3": "b.recipe: SequenceClassification has no option 'max_lenth'; did you mean",
        "max_length: 0": "b.recipe.max_length: found 0; accepted: 1 or more",
        "max_length: a": "b.recipe.max_length: found 'a'; accepted: a whole number",
    }.items():
        own = f"b: {{dataset: {{validation: {{x: dev.jsonl}}}}, recipe: {{{options}}}}}"
        answer = ask(*asked, f"dataset.mixture={{a: {{dataset: dev.jsonl}}, {own}}}")
        assert answer.code == 2 and f"error: dataset.mixture.{said}" in answer.err


@pytest.mark.parametrize(
    ("job", "where"), [("evaluate", "dataset.validation.y"), ("predict", "input (y)")]
)
def test_a_set_with_an_unread_column_is_named(
    trained: Path, ask: Callable[..., Any], job: str, where: str
) -> None:
    rows = [json.loads(line) for line in Path("dev.jsonl").read_text().splitlines()][:9]
    pairs = [json.dumps({**row, "text_pair": "b"}) + "\n" for row in rows]
    Path("pairs.jsonl").write_text("".join(pairs))
    sets = "dataset.validation={x: dev.jsonl, y: pairs.jsonl}"
    answer = ask(f"job={job}", f"model.path={trained / 'model'}", sets)
    assert answer.code == 2 and f"error: {where}: recipe.text_pair: null, but the" in answer.err
