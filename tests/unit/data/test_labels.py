"""Labels: the kinds of label columns, and the meaning of their cells."""

import json
import re
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from recipes.sequence_classification import SequenceClassification
from trainer.data.in_memory_rows import as_table
from trainer.data.rows import Files
from trainer.errors import AnswerError, InputError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def csv(cells: list[str], name: str = "a.csv") -> Any:
    quoted = [f'"{cell}"' if "," in cell else cell for cell in cells]
    Path(name).write_text("text,label\n" + "".join(f"t{i},{c}\n" for i, c in enumerate(quoted)))
    return rows_of(name)


def jsonl(cells: list[Any]) -> Any:
    lines = (json.dumps({"text": f"t{i}", "label": c}) + "\n" for i, c in enumerate(cells))
    Path("a.jsonl").write_text("".join(lines))
    return rows_of("a.jsonl")


def rows_of(name: str, **options: Any) -> Any:
    return Files(train=name, validation_fraction=0, **options).load().train


def targets(recipe: SequenceClassification, rows: Any) -> list[Any]:
    """Each row's target, or the message of its error."""
    found = []
    for row, value in enumerate(recipe.label_column.values(rows)):
        try:
            found.append(recipe.label_column.target(value, row))
        except AnswerError as error:
            found.append(str(error))
    return found


HOT = [[0, 1, 0], [0, 0, 0], [1, 1, 0]]
FLAGS = [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
MISSING = "'label' is missing; every row needs one"


@pytest.mark.parametrize(
    ("cells", "fields", "problem", "labels", "wanted"),
    [
        # numbers in CSV
        (["1", "0", "1"], {}, "single_label", ["0", "1"], [1, 0, 1]),
        (["10", "9", "10"], {}, "single_label", ["9", "10"], [1, 0, 1]),
        (["0.50", "1", "2e-1"], {}, "regression", None, [0.5, 1.0, 0.2]),
        (["1.5", "2.5", "3.0"], {}, "regression", None, [1.5, 2.5, 3.0]),
        (["0.0", "1.0", "0.0"], {}, "single_label", ["0", "1"], [0, 1, 0]),
        (["0.0", "1.0"], {"labels": ["neg", "pos"]}, "single_label", ["neg", "pos"], [0, 1]),
        (["3.0", "1.0"], {}, "regression", None, [3.0, 1.0]),
        # a missing cell is not a class, and does not turn numbers into words
        (["pos", "", "neg"], {}, "single_label", ["neg", "pos"], [1, MISSING, 0]),
        (["1", "", "0"], {}, "single_label", ["0", "1"], [1, MISSING, 0]),
        (
            ["4.5", "NA", "3.25"],
            {},
            "regression",
            None,
            [4.5, "'label' is 'NA'; accepted: a number", 3.25],
        ),
        (["1", "NA", "0"], {}, "single_label", ["0", "1"],
         [1, "'label' is 'NA'; accepted: 0, 1", 0]),
        (["NA", "DE", "NA"], {}, "single_label", ["DE", "NA"], [1, 0, 1]),
        # whole numbers are names if some of the given names are numbers
        (["1", "2", "other"], {}, "single_label", ["1", "2", "other"], [0, 1, 2]),
        (["1", "2"], {"labels": ["1", "2", "other"]}, "single_label", ["1", "2", "other"], [0, 1]),
        (["1", "0"], {"labels": ["neg", "pos"]}, "single_label", ["neg", "pos"], [1, 0]),
        (["1", "0", ""], {"labels": ["n", "p"]}, "single_label", ["n", "p"], [1, 0, MISSING]),
        (["1", "NA", "x"], {"labels": ["n", "p"]}, "single_label", ["n", "p"],
         [1, "'label' is 'NA'; accepted: n, p", "'label' is 'x'; accepted: n, p"]),
        # several labels in a cell
        (["a|b", "c", ""], {"label_separator": "|"}, "multi_label", ["a", "b", "c"],
         [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]),
        (["['a', 'b']", '[]', "['c']"], {}, "multi_label", ["a", "b", "c"],
         [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        (["[0, 1, 0]", "[1, 1, 0]"], {"labels": ["a", "b", "c"]}, "multi_label", ["a", "b", "c"],
         [FLAGS[0], FLAGS[2]]),
        (["yes, sure", "yes, maybe", "no"], {"problem": "single_label"}, "single_label",
         ["no", "yes, maybe", "yes, sure"], [2, 1, 0]),
    ],
)  # fmt: skip
def test_labels_of_csv(
    cells: list[str], fields: Any, problem: str, labels: Any, wanted: list[Any]
) -> None:
    rows = csv(cells)
    recipe = SequenceClassification(**fields).learn(rows)
    assert (recipe.problem, recipe.labels) == (problem, labels)
    assert targets(recipe, rows) == wanted
    assert recipe.learn(rows) == recipe  # since the Trainer calls learn again


@pytest.mark.parametrize(
    ("cells", "fields", "problem", "labels", "wanted"),
    [
        (HOT, {"labels": ["a", "b", "c"]}, "multi_label", ["a", "b", "c"], FLAGS),
        (HOT, {}, "multi_label", ["0", "1", "2"], FLAGS),
        ([[True, False], [False, False]], {"labels": ["a", "b"]}, "multi_label", ["a", "b"],
         [[1.0, 0.0], [0.0, 0.0]]),
        ([[0, 1], [2]], {"labels": ["a", "b", "c"]}, "multi_label", ["a", "b", "c"],
         [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
        ([[0, 1], [1, 0]], {"labels": ["a", "b"], "int_labels": "ids"}, "multi_label", ["a", "b"],
         [[1.0, 1.0], [1.0, 1.0]]),
        ([["b"], [], ["a"]], {}, "multi_label", ["a", "b"], [[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]),
        ([1, "other", 2], {}, "single_label", ["1", "2", "other"], [0, 2, 1]),
        ([1, 2], {"labels": ["1", "2", "other"]}, "single_label", ["1", "2", "other"], [0, 1]),
        ([True, False, True], {}, "single_label", ["false", "true"], [1, 0, 1]),
        ([True, False], {"labels": ["True", "False"]}, "single_label", ["True", "False"], [0, 1]),
        ([True, False], {"labels": ["neg", "pos"]}, "single_label", ["neg", "pos"], [1, 0]),
        (["TRUE", "false"], {"labels": ["true", "false"]}, "single_label", ["true", "false"],
         [0, 1]),
        ([1, None, 0], {}, "single_label", ["0", "1"], [1, MISSING, 0]),
        ([0.5, None, 1], {}, "regression", None, [0.5, "'label' is None; accepted: a number", 1.0]),
        (HOT + [[1, 0]], {"labels": ["a", "b", "c"], "int_labels": "flags"}, "multi_label",
         ["a", "b", "c"],
         [*FLAGS, "'label' is a list of 2; accepted: one flag for each of 3 labels"]),
    ],
)  # fmt: skip
def test_labels_of_json(
    cells: list[Any], fields: Any, problem: str, labels: Any, wanted: list[Any]
) -> None:
    rows = jsonl(cells)
    recipe = SequenceClassification(**fields).learn(rows)
    assert (recipe.problem, recipe.labels) == (problem, labels)
    assert targets(recipe, rows) == wanted


def test_several_columns_of_flags() -> None:
    Path("a.csv").write_text("text,toxic,insult\na,1,0\nb,0,0\nc,1,1\nd,2,0\n")
    recipe = SequenceClassification(label=["toxic", "insult"]).learn(rows_of("a.csv"))
    assert (recipe.problem, recipe.labels) == ("multi_label", ["toxic", "insult"])
    found = targets(recipe, rows_of("a.csv"))
    assert found[:3] == [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
    assert found[3] == "'toxic', 'insult' is 2; accepted: 0 or 1 for each label"
    assert "'toxic', 'insult': multi_label" in (recipe.label_rule or "")


def test_combinations_of_labels_are_no_classes() -> None:
    for cells in (["a|b|c", "a|b", "c"], ["a;b", "b;c", "x"], ["a,b", "b,a", "c"]):
        with pytest.raises(InputError, match="looks like several labels; accepted: "):
            SequenceClassification().learn(csv(cells))
    kept = SequenceClassification().learn(csv(["comp.sys, mac", "rec, autos"]))
    assert kept.labels == ["comp.sys, mac", "rec, autos"]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([{"a": 1}, {"a": 2}], "found {'a': 1}; accepted: texts, or integers"),
        ([date(2024, 1, 2)], "found datetime.date(2024, 1, 2); accepted: texts, or integers"),
        ([b"x", b"y"], "found b'x'; accepted: texts, or integers"),
        ([Decimal("1.5")], "found Decimal('1.5'); accepted: texts, or integers"),
        ([[["a"]], [["b"]]], "found ['a']; accepted: texts, or integers"),
        ([[], []], "'label' holds no label in any row; accepted: one or more"),
        ([None, None], "'label' holds no label in any row; accepted: two or more"),
        (["b", "b"], "'label' holds only one label, b; accepted: two or more"),
    ],
)
def test_what_can_be_no_label_is_refused(values: list[Any], found: str) -> None:
    rows = as_table([{"text": "t", "label": value} for value in values])
    with pytest.raises(InputError, match=re.escape(f"recipe.label: {found}")):
        SequenceClassification().learn(rows)


def test_true_is_another_label_than_1() -> None:
    for cells in ([1, True], [True, 1]):
        assert SequenceClassification().learn(jsonl(cells)).labels == ["1", "true"]


def test_flags_of_a_recipe_that_has_learnt_nothing_are_not_guessed() -> None:
    foreign = SequenceClassification(labels=["a", "b"], problem="multi_label")
    with pytest.raises(AnswerError, match=r"is \[0, 1\]: flags or ids\? accepted: recipe.int_lab"):
        foreign.label_column.target([0, 1], 0)
    assert foreign.label_column.target([1], 0) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"label": []}, r"recipe.label: found \[\]"),
        ({"label": ["a", "a"]}, "recipe.label: found .*or several different ones"),
        ({"label": ["a", "b"], "problem": "regression"}, "recipe.label: found several columns"),
        ({"label": ["a", "b"], "labels": ["x"]}, "recipe.labels: found 1 names for 2 columns"),
        ({"label_separator": ""}, "recipe.label_separator: found ''"),
        (
            {"label_separator": "|", "problem": "regression"},
            "found '|' with recipe.problem=regress",
        ),
        ({"int_labels": "index"}, "recipe.int_labels: found 'index'; accepted: auto, ids, names"),
    ],
)
def test_settings_of_labels_that_exclude_each_other(fields: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        SequenceClassification(**fields)


def test_classes_are_held_out_in_their_shares() -> None:
    counts = {"a": 500, "b": 90, "c": 9, "d": 1}
    cells = [name for name, count in counts.items() for _ in range(count)]
    csv(cells)
    splits = Files(train="a.csv").load()
    held = splits.validation[""]["label"][:]
    assert splits.train is not None and len(held) == 60
    assert {name: held.count(name) for name in counts} == {"a": 50, "b": 9, "c": 1, "d": 0}
    assert splits.notes == (
        "dataset.train: 60 of 600 rows are held out, stratified by 'label'; no other row equals "
        "one of them",
    )
    assert set(splits.train["text"]).isdisjoint(splits.validation[""]["text"])
    by_text = Files(train="a.csv", stratify_by="text").load()
    assert "by their content" in by_text.notes[0]
    with pytest.raises(InputError, match="dataset.stratify_by: no column 'lable'.*'label'"):
        Files(train="a.csv", stratify_by="lable").load()


def test_a_second_text_that_no_setting_names_is_read() -> None:
    Path("a.csv").write_text("text,text_pair,label\na,x,1\nb,y,0\n")
    assert SequenceClassification().learn(rows_of("a.csv")).text_pair == "text_pair"
    single = SequenceClassification().learn(csv(["1", "0"]))
    with pytest.raises(InputError, match="recipe.text_pair: null, but the rows have a column"):
        single.features({"text": ["a"], "text_pair": ["b"]}, None)  # type: ignore[arg-type]
