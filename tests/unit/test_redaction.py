"""Secrets are redacted and untrusted text is escaped in files, terminals and logs."""

import json
import logging
import os

import pytest
from rich.table import Table

from trainer import redaction
from trainer.redaction import (
    INTERPOLATED,
    names_secret,
    note_interpolated,
    redacted,
    redacted_text,
    without_environment,
)
from trainer.terminal.console import PlainFormatter, error_line, make_console, show
from trainer.terminal.plain_text import MAX_LINE, one_line, plain, plain_json

TOKENS = [
    "hf_abcdefghijklmnopqrst",
    "sk-proj-abcdefghijklmnopqrstuvwx",
    "ghp_abcdefghijklmnopqrstuvwxyz0123",
    "glpat-abcdefghijklmnopqrst",
    "xoxb-123456789012-abcdef",
    "AKIAIOSFODNN7EXAMPLE",
    "AIzaSyA-abcdefghijklmnopqrstuvwxyz01234",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc_def-123",
    "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("token", TOKENS)
def test_tokens_of_known_services(token: str) -> None:
    assert redacted_text(f"a {token} b") == "a <redacted> b"
    assert redacted({"x": [f"see {token}"]}) == {"x": ["see <redacted>"]}
    assert token not in json.dumps(redacted({f"key {token}": 1}))


def test_urls_bearers_and_what_is_none() -> None:
    assert redacted_text("https://u:pass@h/x") == "https://u:<redacted>@h/x"
    assert redacted_text("Authorization: Bearer abcdefgh1234") == "Authorization: Bearer <redacted>"
    for harmless in (
        "https://h/x@y",
        "a bearer of news",
        "s3://bucket/key",
        "12:30 a@b.org",
        "sk-1",
    ):
        assert redacted_text(harmless) == harmless


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("hubToken", True),
        ("PGPASSWORD", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("wandb_api_key", True),
        ("private_key", True),
        ("pad_token", False),
        ("max_tokens", False),
        ("tokenizer", False),
        ("key", False),
    ],
)
def test_names_of_secrets(key: str, secret: bool) -> None:
    assert names_secret(key) == secret


def test_what_a_config_has_read_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        os, "environ", {"A": "valueofA", "B": "12345678", "C": "/tmp", "D": "valueofD"}
    )
    assert without_environment("x valueofA") == "x valueofA"
    for name in "ABC":
        note_interpolated(name)
    note_interpolated("no name,at all")
    assert os.environ[INTERPOLATED] == "A,B,C"
    assert redacted("valueofA") == "<redacted>"
    assert redacted("x valueofA 12345678 /tmp valueofD") == "x <redacted A> 12345678 /tmp valueofD"
    assert without_environment({"valueofA": ["valueofA"]}) == {"<redacted A>": ["<redacted A>"]}


BAD = "\x1b]0;title\x07\x9b2J\u202egnp.exe\u2066\x00"


def test_others_text_is_shown_as_what_it_is() -> None:
    assert plain(BAD) == r"\x1b]0;title\x07\x9b2J\u202egnp.exe\u2066\x00"
    assert plain("é 中文 \t\n 👍") == "é 中文 \t\n 👍"
    line = json.dumps({"a": BAD + "\U000e0041\ud800"}, ensure_ascii=False)
    assert plain_json(line).isprintable()
    assert json.loads(plain_json(line)) == json.loads(line)
    assert len(one_line("x" * 10**6)) < MAX_LINE + 60


def test_every_way_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    error_line(f"file: {BAD}\nmore")
    console = make_console()
    show(console, BAD)
    console.print(BAD, soft_wrap=True)
    table = Table(title=BAD)
    table.add_column(BAD)
    table.add_row(f"[red]{BAD}[/red]")
    show(console, table)
    record = logging.LogRecord("trainer", 30, "", 0, f"hf_{'a' * 20} {BAD}\nb", (), None)
    printed = capsys.readouterr()
    for text in (printed.out, printed.err, PlainFormatter().format(record)):
        assert not set(text) & set("\x1b\x07\x9b\u202e\u2066\x00")
        assert "\\x1b]0;title" in text
    assert printed.err.count("\n") == 1 and "[red]" in printed.out
    assert "\n" not in PlainFormatter().format(record) and "hf_" not in PlainFormatter().format(
        record
    )


def test_the_environment_is_read_once_for_a_whole_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """A config has thousands of texts, and an environment thousands of variables."""
    calls = []
    read = redaction.environment_secrets
    monkeypatch.setattr(redaction, "environment_secrets", lambda: calls.append(1) or read())
    monkeypatch.setenv("THE_TOKEN", "not-for-anybody")
    config = {"a": [{"b": f"text {n}", "c": "is not-for-anybody"} for n in range(50)]}
    found = redacted(config)
    assert found["a"][49] == {"b": "text 49", "c": "is <redacted THE_TOKEN>"}
    assert len(calls) == 1
