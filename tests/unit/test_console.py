"""The error line is one line, whatever is in the message and however narrow the terminal."""

from trainer.console import error_line


def test_an_error_is_one_plain_line(capsys):
    error_line("dataset.path: found\n  'x' " + "y" * 300)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"error: dataset.path: found 'x' {'y' * 300}\n"
