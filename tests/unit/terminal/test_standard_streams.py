"""Failing standard output: a run logs it once and continues."""

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import EnvironmentFault, allocation_failure
from trainer.launching.error_exit import report_os_error
from trainer.terminal import standard_streams
from trainer.terminal.console import make_console, show
from trainer.terminal.standard_streams import LastingOutput, require_output


class Failing(io.StringIO):
    """A stream on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: Any) -> None:
    monkeypatch.setattr(standard_streams, "_reported", set())
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
    """Neither in launch.py as a program, nor in its imports."""
    words = "job=generate model.path=nowhere input.prompt=a launch.num_processes=1"
    command = f"'{sys.executable}' '{repository}/launch.py' {words} <&- >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "error: standard output is closed" in done.stderr


def test_text_that_the_terminal_cannot_encode_is_escaped_as_in_json() -> None:
    """As with PYTHONIOENCODING=ascii, or a locale without UTF-8: the run would end otherwise."""
    program = (
        "import json; from trainer.terminal.standard_streams import open_closed_streams\n"
        "open_closed_streams(); print(json.dumps({'label': 'ü 👎 \\\"q\\\"'}, ensure_ascii=False))"
    )
    for setting, text in {
        "ascii": r"\u00fc \ud83d\udc4e",
        "latin-1": r"ü \ud83d\udc4e",
        "ascii:replace": "? ?",  # a handler that the user chose is kept
    }.items():
        encoding = setting.partition(":")[0]
        environment = {**os.environ, "PYTHONIOENCODING": setting}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, check=True
        )
        shown = done.stdout.decode(encoding)
        assert text in shown
        assert "?" in text or json.loads(shown) == {"label": 'ü 👎 "q"'}


def test_a_working_folder_that_is_gone_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError) as caught:
        Path.cwd()
    assert report_os_error(caught.value) == 3
    assert "the working folder no longer exists; accepted: to be in" in capfd.readouterr().err


def test_a_missing_file_without_a_name_is_not_the_working_folder(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(FileNotFoundError) as caught:
        client.connect("/nosuch")
    assert caught.value.filename is None and report_os_error(caught.value) == 3
    assert capfd.readouterr().err.endswith("No such file or directory\n")


def test_a_lack_of_memory_in_onednn_is_recognised() -> None:
    line = allocation_failure(RuntimeError("could not create a primitive"))
    assert line == (
        "out of memory (could not create a primitive); checkpoints saved before are intact"
    )
    odd = "could not create a primitive descriptor for a matmul primitive"  # an unsupported case
    assert allocation_failure(RuntimeError(odd)) is None
