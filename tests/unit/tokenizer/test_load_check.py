"""A foreign tokenizer.json is tried in a limited process before it is loaded in ours."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from trainer.errors import InputError, RowError
from trainer.tokenizer import Tokenizer, inputs, load_check
from trainer.tokenizer.native_calls import Panic, native_call

VOCAB = {"[UNK]": 0, "a": 1, "b": 2}
WORDPIECE = {
    "type": "WordPiece",
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
    "vocab": VOCAB,
}
BPE = {
    "type": "BPE",
    "unk_token": "[UNK]",
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
    "vocab": {**VOCAB, "ab": 3},
    "merges": [["a", "b"]],
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEMPERING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def save(folder: Path, **parts: Any) -> Path:
    empty = dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
    found = {"version": "1.0", "added_tokens": [], **empty, "model": WORDPIECE, **parts}
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(found))
    return folder


def replaced(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


PREPENDS = {"type": "Prepend", "prepend": "a" * 6000 + "x"}
BOMB = sequence(
    {"type": "Prepend", "prepend": "a" * 10}, *[replaced({"String": "a"}, "a" * 100)] * 7
)
LONG = replaced({"Regex": "(" + "a|" * 15_000 + "b)"}, "")


@pytest.mark.parametrize(
    ("normalizer", "seconds", "said"),
    [
        (sequence(PREPENDS, replaced({"Regex": "a*a*[xyz][xyz]"}, "")), 1, "takes too long|retry"),
        (BOMB, 60, "memory"),
        (LONG, 60, "a pattern of 30,003 characters"),
    ],
)
def test_what_does_not_end_is_refused_in_one_line(
    normalizer: dict[str, Any],
    seconds: int,
    said: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load_check, "SECONDS", seconds)
    monkeypatch.setattr(load_check, "MEMORY", 1 << 29)
    folder = save(tmp_path / "t", normalizer=normalizer)
    with pytest.raises(InputError, match=rf"tokenizer.json: .*({said})") as caught:
        Tokenizer.from_pretrained(folder)
    assert "\n" not in str(caught.value) and capfd.readouterr().err == ""


def test_a_file_is_tried_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "t")
    Tokenizer.from_pretrained(folder)
    verdicts = list((cache / ".tried").iterdir())
    assert len(verdicts) == 1 and verdicts[0].stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(load_check, "_tried", lambda text: "tried again")
    Tokenizer.from_pretrained(folder)
    verdicts[0].write_text("no")
    with pytest.raises(InputError, match="tried again"):
        Tokenizer.from_pretrained(folder)


def test_bpe_dropout_is_not_applied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save(tmp_path / "t", model={**BPE, "dropout": 0.5})
    tokenizer = Tokenizer.from_pretrained(folder)
    assert {tuple(tokenizer("ab" * 20)["input_ids"]) for _ in range(20)} == {(3,) * 20}
    assert "model.dropout 0.5 is not applied" in caplog.text


def test_texts_that_are_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.from_pretrained(save(tmp_path / "t"))
    monkeypatch.setattr(inputs, "MAX_CHARACTERS", 10)
    with pytest.raises(RowError, match="text: found 11 characters; accepted: at most 10") as caught:
        tokenizer(["a", "b" * 11])
    assert caught.value.row == 1
    with pytest.raises(RowError):
        tokenizer([["a", "b" * 10]], is_split_into_words=True)


def test_sigterm_works_while_native_code_runs() -> None:
    """The expression backtracks forever in native code that has released the GIL."""
    code = """
from trainer.launching.early_signals import leave_unsaved
leave_unsaved()
import tokenizers
from tokenizers import Regex, models, normalizers
backend = tokenizers.Tokenizer(models.WordLevel({"a": 0}, "a"))
backend.normalizer = normalizers.Replace(Regex("a*a*a*[xyz][xyz]"), "")
print("asleep", flush=True)
backend.encode_batch(["a" * 100_000 + "x"] * 2)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "asleep\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 143, errors
    assert errors.strip() == "stopped by SIGTERM: not saved"


def test_a_process_that_takes_long_to_end_says_so_once() -> None:
    """Although the thread for native code does not wait for its line, and signals come again."""
    code = """
import os, signal, time
from trainer.launching import early_signals
usual, early_signals.PATIENCE, again = early_signals.plain_line, 0.1, [signal.SIGTERM]
def slowly(text):
    usual(text)
    if again:
        os.kill(os.getpid(), again.pop())
    time.sleep(1)
early_signals.plain_line = slowly
early_signals.leave_unsaved()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(600)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "stopped by SIGTERM: not saved\n")


def test_a_forked_process_does_not_end_its_parent() -> None:
    code = """
import os, signal, time
from trainer.launching.early_signals import leave_unsaved
leave_unsaved()
child = os.fork()
if not child:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(30)
    os._exit(0)
time.sleep(0.3)
os.kill(child, signal.SIGTERM)
os.waitpid(child, 0)
time.sleep(1.5)
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.stdout == "alive\n", done.stderr


def test_a_process_that_is_forked_while_its_parent_ends_can_be_ended_too() -> None:
    code = """
import os, signal, time
from trainer.launching import early_signals
early_signals.leave_unsaved()
early_signals._leaving.acquire()
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.write(writer, b"ready")
    time.sleep(60)
    os._exit(0)
os.read(reader, 5)
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "143\n", done.stderr


PANICS = {"type": "Strip", "content": "a", "start": 3, "stop": 3}
"""A decoder that slices a token of three a from 3 to 0."""


def test_a_panic_is_an_error_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = {**WORDPIECE, "vocab": {**VOCAB, "aaa": 3}}
    tokenizer = Tokenizer.from_pretrained(save(tmp_path / "t", decoder=PANICS, model=model))
    for attempt in (lambda: tokenizer.decode([3]), lambda: tokenizer.batch_decode([[1], [3]])):
        with pytest.raises(InputError, match="tokenizer: its decoder fails: "):
            attempt()
    with pytest.raises(InputError, match="tokenizer: its decoder fails"):
        tokenizer.convert_tokens_to_string(["aaa"])
    assert capfd.readouterr().err == ""
    assert tokenizer.decode([2]) == "b"


def test_what_others_write_meanwhile_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    with native_call():
        os.write(2, b"one\n")
        with native_call():
            os.write(2, b"two\n")
    os.write(2, b"three\n")
    backend = tokenizers.decoders.Strip("a", 3, 3)
    with pytest.raises(Panic, match="slice index"), native_call():
        os.write(2, b"four\n")
        backend.decode(["aaa"])
    assert capfd.readouterr().err == "one\ntwo\nthree\nfour\n"


def test_sigterm_leaves_no_trial_behind(tmp_path: Path) -> None:
    slow = sequence(PREPENDS, replaced({"Regex": "a*a*[xyz][xyz]"}, ""))
    folder = save(tmp_path / "t", normalizer=slow)
    code = f"""
from trainer.launching.early_signals import leave_unsaved
leave_unsaved()
from trainer.tokenizer import Tokenizer, load_check
load_check.SECONDS = 600
print("trying", flush=True)
Tokenizer.from_pretrained({str(folder)!r})
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "trying\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    end = time.monotonic() + 600
    while not (found := children.read_text().split()) and time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 143 and errors.strip() == "stopped by SIGTERM: not saved"
    assert len(found) == 1
    while (alive := _is_alive(int(found[0]))) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive


def _is_alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
