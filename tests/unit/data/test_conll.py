"""CoNLL files: any columns, both separators, comments, documents, and errors with lines."""

from pathlib import Path

import pytest

from trainer.data.rows import Files
from trainer.errors import InputError


def load(folder: Path, text: str, **options: object) -> dict[str, list[list[str]]]:
    file = folder / "a.conll"
    file.write_text(text)
    rows = Files(train=str(file), validation_fraction=0, **options).load().train
    assert rows is not None
    return rows[:]


CONLL_2003 = (
    "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n\nPeter NNP B-NP B-PER\n"
)
CONLL_U = "# sent_id = 1\n# text = a b\n1\ta\tDET\n2\tb\tNOUN\n\n# x\n1\t#\tSYM\n"


def test_columns_have_their_numbers_as_names(tmp_path: Path) -> None:
    assert load(tmp_path, CONLL_2003) == {
        "tokens": [["EU", "rejects"], ["Peter"]],
        "1": [["NNP", "VBZ"], ["NNP"]],
        "2": [["B-NP", "B-VP"], ["B-NP"]],
        "tags": [["B-ORG", "O"], ["B-PER"]],
    }


def test_any_column_can_be_the_words_or_the_tags(tmp_path: Path) -> None:
    found = load(tmp_path, CONLL_2003, columns={"2": "tags", "tags": "ner"})
    assert found["tags"] == [["B-NP", "B-VP"], ["B-NP"]]
    found = load(tmp_path, CONLL_U, columns={"tokens": "id", "1": "tokens"})
    assert found == {
        "id": [["1", "2"], ["1"]],
        "tokens": [["a", "b"], ["#"]],
        "tags": [["DET", "NOUN"], ["SYM"]],
    }


def test_words_alone_have_no_tags(tmp_path: Path) -> None:
    assert load(tmp_path, "a\n#\n\nb\n") == {"tokens": [["a", "#"], ["b"]]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a O\nb\n", r":2: 'b' has 1 cell \(separated by spaces\); accepted: 2, as in line 1"),
        (
            "\na\tO\n\nb\tO\tx\n",
            r":4: .* has 3 cells \(separated by TABs\); accepted: 2, as in line 2",
        ),
        ("a\tO\n\tO\n", r":2: .* has an empty cell; accepted: 2 cells with content"),
    ],
)
def test_lines_of_other_widths_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(tmp_path, text)


def test_a_document_ends_a_sentence_without_a_blank_line(tmp_path: Path) -> None:
    found = load(tmp_path, "a O\n-DOCSTART- O\nb O\n-DOCSTART- O\n")
    assert found == {"tokens": [["a"], ["b"]], "tags": [["O"], ["O"]]}
