"""An error is one line, for any message and any width of the terminal."""

import pytest
from rich.console import Group
from rich.text import Text

from trainer.rendering.layout import numbers_table
from trainer.terminal.console import error_line, make_console, show


def test_an_error_is_one_plain_line(capsys):
    error_line("dataset.path: found\n  'x' " + "y" * 300)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"error: dataset.path: found 'x' {'y' * 300}\n"


@pytest.mark.parametrize(
    ("variables", "has_colours"),
    [
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({"TERM": "unknown"}, False),
    ],
)
def test_an_error_has_colours_where_a_terminal_shows_them(
    variables, has_colours, monkeypatch, capsys
):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    error_line("found x")
    printed = capsys.readouterr().err
    assert printed == ("\x1b[1;31merror: \x1b[0mfound x\n" if has_colours else "error: found x\n")


def test_a_wide_table_is_not_truncated(capsys):
    table = numbers_table("name", *(f"column {n}" for n in range(20)))
    table.add_row("row", *(str(n) * 8 for n in range(20)))
    show(make_console(), Group(Text("first"), table))
    first, header, row = capsys.readouterr().out.splitlines()
    assert first == "first" and "…" not in header + row
    assert row.split() == ["row", *(str(n) * 8 for n in range(20))]
