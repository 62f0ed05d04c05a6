"""Cells of types that nobody expects are refused with their row, in one line."""

import io
from collections.abc import Callable
from typing import Any

import pytest

from recipes.sequence_classification import SequenceClassification
from recipes.token_classification import TokenClassification
from trainer.data.answers_in_text import answers_of, has_no_answer
from trainer.data.chat_rows import from_sharegpt
from trainer.data.choice_rows import ChoiceRows
from trainer.data.command_line_texts import typed_texts
from trainer.data.in_memory_rows import as_table
from trainer.data.task_rows import rows_by_task
from trainer.data.text_groups import TextColumns, with_repeats
from trainer.data.text_spans import read_spans
from trainer.data.tokenized_rows import features_of_tokenized
from trainer.errors import InputError, RowError

CHOICES = ChoiceRows("choices", "label")
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "speaker": (lambda: from_sharegpt([{"from": ["human"], "value": "a"}], 0), "from '['human']'"),
    "task": (
        lambda: rows_by_task(as_table([{"task": ["ner"]}]), "task", ["ner"]),
        "'task' is ['ner']",
    ),
    "annotation": (lambda: read_spans([{"result": []}, None], "a", 0, "x"), "'x' holds None"),
    "annotations": (lambda: read_spans([{"result": []}, []], "a", 0, "x"), "'x' holds []"),
    "no text": (lambda: answers_of({"answer_start": [3]}, "a", 0, "x"), "'x' has 0 texts but"),
    "number": (lambda: answers_of({"text": 5}, "a", 0, "x"), "'x' is {'text': 5}"),
    "deep": (lambda: answers_of("[" * 100_000, "a", 0, "x"), "as JSON"),
    "letter": (
        lambda: CHOICES.labels({"choices": [["a", "b"]], "label": ["\u00df"]}),
        "a letter from A on",
    ),
    "labels": (
        lambda: CHOICES.labels({"choices": [{"text": ["a", "b"], "label": list("ABC")}],
                                "label": ["C"]}),
        "'choices' has 2 texts and 3 labels; accepted: a label for each text",
    ),
    "mask": (
        lambda: features_of_tokenized(
            {"input_ids": [[1, 2]], "attention_mask": [1]}, SequenceClassification()
        ),
        "'attention_mask' is 1; accepted: a list",
    ),
    "large": (
        lambda: features_of_tokenized({"input_ids": [[2**40]]}, SequenceClassification()),
        "'input_ids' is [1099511627776]; accepted: whole numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_odd_cells_are_refused(name: str) -> None:
    read, message = REFUSED[name]
    with pytest.raises(RowError) as error:
        read()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_null_texts_are_no_answer() -> None:
    assert answers_of({"text": None, "answer_start": None}, "a", 0, "x") == []
    assert has_no_answer('{"text": null}')


def test_texts_of_the_command_line() -> None:
    assert typed_texts("[" * 200_000, "input.text") == ["[" * 200_000]
    with pytest.raises(InputError, match="^input.text: found .* half of a surrogate pair; accep"):
        typed_texts('["a", "\\ud800"]', "input.text")


def test_standard_input_must_be_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    for errors in ("strict", "surrogateescape"):
        given = io.TextIOWrapper(io.BytesIO(b"a\n\xff\n"), "utf-8", errors)
        monkeypatch.setattr("sys.stdin", given)
        with pytest.raises(InputError, match="^input.text.*: found bytes that are not UTF-8$"):
            typed_texts("-", "input.text")


def test_a_column_that_is_missing_is_named() -> None:
    with pytest.raises(InputError, match="no column 'tags'; there are: tokens"):
        TokenClassification().learn(as_table([{"tokens": ["a"]}]))
    rows = as_table([{"query": "a"}])
    columns = TextColumns("text", "text_pair", "negatives", None)
    assert with_repeats(rows, columns).column_names == ["query"], "for `features` to name it"
