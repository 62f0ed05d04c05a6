"""Plain text: a file is a document, whose last lines are held out."""

from pathlib import Path

import pytest

from trainer.data.plain_text import PlainText
from trainer.errors import InputError

TEXT = "".join(f"line {number}\n\n" for number in range(20))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(f"{name}\n{TEXT}")
    return tmp_path


def test_the_last_lines_of_each_file_are_held_out(folder: Path) -> None:
    splits = PlainText(train=str(folder), validation_fraction=0.25).load()
    assert splits.train is not None
    train, held = list(splits.train["text"]), list(splits.validation[""]["text"])
    assert [first + last for first, last in zip(train, held, strict=True)] == [
        f"a\n{TEXT}",
        f"b\n{TEXT}",
    ]
    assert [text.count("\n") for text in (*train, *held)] == [31, 31, 10, 10]


def test_files_of_their_own_are_taken_whole(folder: Path) -> None:
    a, b = str(folder / "a.txt"), str(folder / "b.txt")
    splits = PlainText(train=a, validation=b).load()
    assert splits.train is not None and list(splits.train["text"]) == [f"a\n{TEXT}"]
    assert list(splits.validation[""]["text"]) == [f"b\n{TEXT}"]
    splits = PlainText(train=a, validation_fraction=0).load()
    assert splits.validation == {} and splits.train is not None and len(splits.train) == 1
    assert PlainText(validation=b).load().train is None


def test_what_is_no_text_is_refused(folder: Path) -> None:
    (folder / "short.txt").write_text("one line\n")
    (folder / "rows.csv").write_text("a,b\n")
    (folder / "latin.txt").write_bytes(b"a\n\xe9\n")
    for settings, said in (
        ({}, "dataset.train: nothing given; accepted: a .txt file"),
        ({"train": str(folder / "rows.csv")}, r"rows\.csv is not plain text; accepted: .txt files"),
        ({"train": str(folder / "short.txt")}, r"short\.txt is too short to cut; give dataset\."),
        ({"train": str(folder / "latin.txt")}, r"latin\.txt:2: byte 0xe9 is not UTF-8"),
        ({"train": str(folder / "none.txt")}, r"dataset\.train: .*none\.txt does not exist"),
    ):
        with pytest.raises(InputError, match=said):
            PlainText(**settings).load()  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"validation_fraction: 1; accepted: at least 0 and below 1"
    ):
        PlainText(train="x", validation_fraction=1)
