"""Standard output that fails: a run logs it once and goes on."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainer import standard_streams
from trainer.console import make_console, show
from trainer.errors import EnvironmentFault
from trainer.standard_streams import LastingOutput, require_output


class Failing(io.StringIO):
    """A stream on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: Any) -> None:
    monkeypatch.setattr(standard_streams, "_told", set())
    monkeypatch.setattr(standard_streams, "_closed", set())


@pytest.mark.parametrize("stream", [Failing(), None])
def test_printing_goes_on_without_it(stream: Any, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    console = make_console()
    for _ in range(3):
        show(console, "a line")
    assert caplog.text.count("standard output: No space left") == (stream is not None)


def test_a_closed_stream_is_no_error_either(monkeypatch: Any, caplog: Any) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    assert LastingOutput("stdout").write("text") == 4
    assert not LastingOutput("stdout").isatty()
    assert "closed file" in caplog.text


def test_room_that_comes_back_is_used(monkeypatch: Any, capsys: Any) -> None:
    output = LastingOutput("stdout")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Failing())
        output.write("lost")
    output.write("kept")
    assert capsys.readouterr().out == "kept"


def test_other_errors_are_not_hidden(monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with pytest.raises(UnicodeEncodeError):
        LastingOutput("stdout").write("é")


def test_answers_are_not_written_to_a_closed_output(monkeypatch: Any) -> None:
    require_output()
    monkeypatch.setattr(standard_streams, "_closed", {"stdout"})
    with pytest.raises(EnvironmentFault, match=r"standard output is closed.*output.file=FILE"):
        require_output()


def test_nothing_takes_the_number_of_a_closed_stream(repository: Path) -> None:
    """Neither in launch.py as a program, nor in what it imports."""
    words = "job=generate model.path=nowhere input.prompt=a launch.num_processes=1"
    command = f"'{sys.executable}' '{repository}/launch.py' {words} <&- >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "error: standard output is closed" in done.stderr
