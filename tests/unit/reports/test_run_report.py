"""The report of a run: all texts are escaped, and an unreadable file affects one section."""

import json
import tracemalloc
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.unit.reports.run_folders import HOSTILE, write_run
from trainer.errors import InputError
from trainer.reports.run_record import RunRecord
from trainer.reports.run_report import SECTIONS, report, write_report
from trainer.reports.sections.data import data

VOID = {"meta", "link", "br", "line", "path", "rect", "circle"}


class Elements(HTMLParser):
    """Counts elements, checks that they are closed, and collects attributes and texts."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page.decode())
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        self._count(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self._count(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.text += data

    def _count(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] += 1
        self.attributes += attrs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run", name=HOSTILE)


def test_texts_of_rows_and_names_are_escaped(run: Path) -> None:
    found = Elements(report(RunRecord.read(run)))
    assert found.counts["script"] == found.counts["style"] == found.counts["h1"] == 1
    assert not found.counts.keys() & {"img", "iframe", "object"}
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert found.text.count(HOSTILE) > 60
    addresses = [value or "" for name, value in found.attributes if name in ("href", "src")]
    assert all(each.startswith(("#", "data:")) for each in addresses)


def test_every_section_is_there(run: Path) -> None:
    page = report(RunRecord.read(run)).decode()
    for name, _ in SECTIONS:
        assert f">{name}</h2>" in page
    for words in ("Confusion matrix", "Calibration", "Greatest losses", "Slices of dev", "Margin"):
        assert words in page
    assert "could not be read" not in page


def test_commands_are_not_those_of_a_file(run: Path) -> None:
    found = Elements(report(RunRecord.read(run)))
    assert "python launch.py 'from=" in found.text or "python launch.py from=" in found.text
    assert f"python launch.py {HOSTILE}" not in found.text


def test_it_is_private_and_of_a_modest_size(run: Path) -> None:
    file = write_report(run)
    assert file.name == "report.html" and file.stat().st_mode & 0o77 == 0
    assert file.stat().st_size < 400_000


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("results.json", '{"steps": 200, "best": 3, "metrics": {"eval_dev_loss": "x"}}'),
        ("predictions-dev.jsonl", '{"row": 1, "entities": [{}], "reference": [{}]}\n'),
        ("predictions-dev.jsonl", '{"value": "x", "reference": 1}\n'),
        ("predictions-dev.jsonl", "no json\n{}\n"),
        ("samples.jsonl", '{"step": "x"}\n'),
        ("dropped.jsonl", '{"place": 1}\n'),
    ],
)
def test_a_file_of_another_kind_costs_one_section(tmp_path: Path, name: str, text: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / name).write_text(text)
    page = report(RunRecord.read(folder)).decode()
    assert 1 <= page.count("could not be read") <= 3
    assert page.count("</h2>") == len(SECTIONS)
    Elements(page.encode())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("facts.json", "[]"),
        ("facts.json", '{"name": "x"}'),
        ("facts.json", '{"starts": [{"when": 1}]}'),
        ("facts.json", '{"starts": [], "total_steps": "9"}'),
        ("facts.json", '{"starts": [], "eval_sets": ["dev"]}'),
        ("metrics.jsonl", "{}}\n{}\n"),
        ("results.json", "{"),
    ],
)
def test_a_file_that_all_need_is_named(tmp_path: Path, name: str, text: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name}: "):
        RunRecord.read(folder)


def test_a_set_cannot_name_a_file_of_another_folder(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", eval_sets={"x/../../secret": 1})
    (folder / "predictions-x").mkdir()
    (tmp_path / "secret.jsonl").write_text('{"row": 1, "loss": 0.5, "label": "SECRET"}\n')
    page = report(RunRecord.read(folder)).decode()
    assert "SECRET" not in page and "could not be read" in page


def test_numbers_beyond_floats_are_gaps(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": 200, "loss": {10**400}}}\n')
    page = report(RunRecord.read(folder)).decode()
    assert page.count("could not be read") == 1  # the overview shows the last loss
    assert "Training loss" in page or "training: first" in page


def test_any_number_of_dropped_rows_takes_little_memory(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    line = json.dumps({"place": "a.csv:3", "reason": "no label", "row": {"text": "x" * 2000}})
    (folder / "dropped.jsonl").write_text(f"{line}\n" * 3000)
    record = RunRecord.read(folder)
    tracemalloc.start()
    try:
        assert "3,000 bad rows were left out" in data(record)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_run_of_an_earlier_version_has_a_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "facts.json").unlink()
    assert "Learning rate" in report(RunRecord.read(folder)).decode()


def test_an_older_result_does_not_count_while_the_run_goes_on(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 210, "loss": 0.5}) + '\n{"step": 211, "lo')
    record = RunRecord.read(folder)
    assert record.last_step == 210 and not record.results
    page = report(record).decode()
    assert "not finished: step 210 of 200" in page and "Greatest losses" not in page


def test_an_older_result_does_not_count_before_the_first_row_of_a_longer_run(
    tmp_path: Path,
) -> None:
    folder = write_run(tmp_path / "run", total_steps=400)
    assert not RunRecord.read(folder).results
    file = folder / "results.json"
    file.write_text(file.read_text().replace("{", '{"stopped": "early stopping", ', 1))
    assert RunRecord.read(folder).results


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run; accepted: the output_dir of one"):
        RunRecord.read(tmp_path)
