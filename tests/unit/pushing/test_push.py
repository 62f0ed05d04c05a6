"""Pushes that are interrupted, repeated or overtaken by others; tags, branches and card rules."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import PART, TOKEN, Hub, hub_here
from trainer.errors import EnvironmentFault, InputError
from trainer.pushing.push import Destination, Pushed, push
from trainer.pushing.push_record import read_record
from trainer.pushing.push_settings import PushSettings, is_reference, is_repository

FILES = {"a.txt": b"a", "model.safetensors": bytes(range(256)) * 20}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_here(monkeypatch) as server:
        yield server


def refused(words: str, kind: type[Exception] = InputError) -> pytest.RaisesExc:
    return pytest.raises(kind, match=words)


def sent(server: Hub, files: dict[str, bytes] = FILES, **options: object) -> Pushed:
    partial = bool(options.pop("partial", False))
    return push(files, Destination("me/x", **options), partial=partial)  # type: ignore[arg-type]


def test_tags_are_set_once_and_not_moved(server: Hub) -> None:
    first = sent(server, tags=["v1", "release/1"])
    assert server.repositories["me/x"].tags == {"v1": first.commit, "release/1": first.commit}
    again = sent(server, tags=["v1"])
    assert again.commit == first.commit and not again.sent
    changed = {**FILES, "a.txt": b"b"}
    before = dict(server.repositories["me/x"].commits)
    with refused(rf"the tag v1 is at {first.commit[:7]}; accepted: another tag"):
        sent(server, changed, tags=["v1"])
    assert server.repositories["me/x"].commits == before
    second = sent(server, changed, tags=["v2"])
    assert server.tree("me/x", "v2")["a.txt"] == b"b" != server.tree("me/x", "v1")["a.txt"]
    with refused("the tag v1 is at"):  # nothing to send, but the tag names an older commit
        sent(server, changed, tags=["v1"])
    assert second.sent == ("a.txt",)


def test_a_branch_is_made_from_main_and_main_stays(server: Hub) -> None:
    sent(server)
    main = server.tree("me/x")
    sent(server, {**FILES, "a.txt": b"b"}, revision="try")
    assert server.tree("me/x") == main and server.tree("me/x", "try")["a.txt"] == b"b"
    sent(server, revision="main")


def test_files_of_others_are_neither_replaced_nor_removed(server: Hub) -> None:
    sent(server, {**FILES, "old.txt": b"old", "edited.txt": b"1", "checkpoint-1/x": b"x"})
    server.put("me/x", {"edited.txt": b"2", "a.txt": b"theirs", "notes.md": b"n"})
    with refused("it holds a.txt, which this program did not write; accepted: replace=true"):
        sent(server)
    done = sent(server, {"model.safetensors": FILES["model.safetensors"]})
    assert done.removed == ("old.txt",) and done.kept == ("a.txt", "edited.txt")
    found = server.tree("me/x")
    assert found["edited.txt"] == b"2" and found["notes.md"] == b"n"
    assert "checkpoint-1/x" in found
    done = sent(server, replace=True)
    assert server.tree("me/x")["a.txt"] == b"a" and server.tree("me/x")["notes.md"] == b"n"


def test_weights_of_others_that_would_be_loaded_instead_are_refused(server: Hub) -> None:
    sent(server, {"adapter_model.safetensors": b"adapter", "adapter_config.json": b"{}"})
    server.put("me/x", {"pytorch_model.bin": b"theirs"})
    with refused("it holds pytorch_model.bin, which"):
        sent(server)
    done = sent(server, replace=True)
    removed = ("adapter_config.json", "adapter_model.safetensors", "pytorch_model.bin")
    assert done.removed == removed
    sent(server, {"tokenizer.json": b"{}"}, partial=True)
    assert {"model.safetensors", "tokenizer.json"} <= server.tree("me/x").keys()
    server.put("me/x", {"pushed.json": b"[]"})  # damaged: nothing counts as ours any more
    with refused("which this program did not write"):
        sent(server, {**FILES, "a.txt": b"b"})


def test_an_upload_that_fails_leaves_the_repository_as_it_was(server: Hub) -> None:
    sent(server)
    before = server.tree("me/x")
    large = {**FILES, "model.safetensors": os.urandom(2 * PART + 7)}
    for part, status, kind, words in (
        ("/lfs/", 403, InputError, "needed: a token with the right to write"),
        ("/commit/", 500, EnvironmentFault, "run the same command again"),
        ("/commit/", 412, EnvironmentFault, "it changed during the push"),
        ("/tree/", 429, EnvironmentFault, "run the same command again"),
        ("/preupload/", 413, InputError, "the hub refuses it"),
    ):
        server.fail = {part: status}
        with refused(words, kind) as caught:
            sent(server, large)
        assert TOKEN not in str(caught.value) and "\n" not in str(caught.value)
        assert server.tree("me/x") == before
    server.fail = {}
    uploads = len([path for _, path in server.requests if path.startswith("/lfs/")])
    sent(server, large)
    assert server.tree("me/x")["model.safetensors"] == large["model.safetensors"]
    again = len([path for _, path in server.requests if path.startswith("/lfs/")])
    assert again == uploads  # the weights had arrived before the commit failed


def test_a_commit_by_somebody_else_in_the_meantime_is_not_overwritten(server: Hub) -> None:
    sent(server)
    server.hold.clear()
    command = [sys.executable, "-c", PUSH, server.endpoint, str(Path.cwd())]
    with started(command) as process:
        wait_for_upload(server, process)
        server.put("me/x", {"a.txt": b"theirs"})
        server.hold.set()
        _, error = process.communicate(timeout=600)
    assert "EnvironmentFault: push to 'me/x': it changed during the push" in error
    assert server.tree("me/x")["a.txt"] == b"theirs" and TOKEN not in error


def test_a_killed_push_leaves_no_half_and_the_next_completes_it(server: Hub) -> None:
    """Killed between the upload and the commit, for a repository that it had just created."""
    server.hold.clear()
    command = [sys.executable, "-c", PUSH, server.endpoint, str(Path.cwd())]
    with started(command) as process:
        wait_for_upload(server, process)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=600)
    server.hold.set()
    repository = server.repositories["me/x"]
    assert list(server.tree("me/x")) == [".gitattributes"] and repository.private
    with started(command) as process:
        _, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    found = server.tree("me/x")
    record = read_record(found["pushed.json"])
    assert record is not None and set(record) == {"a.txt", "model.safetensors"}
    assert found["model.safetensors"] == b"w" * 5000 and len(repository.commits) == 2


PUSH = """
import os, sys
os.environ.update(HF_ENDPOINT=sys.argv[1], HF_HUB_DISABLE_XET="1", HF_HUB_OFFLINE="0")
sys.path.insert(0, sys.argv[2])
from trainer.pushing.push import Destination, push
push({"a.txt": b"b", "model.safetensors": b"w" * 5000}, Destination("me/x"))
"""


def started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for_upload(server: Hub, process: subprocess.Popen[str]) -> None:
    """Wait until the server holds the upload of this push, which may fail before that."""
    end = time.monotonic() + 600
    while not server.waiting.wait(0.1):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "the push does not begin its upload"


def test_names_of_repositories_and_references() -> None:
    for name in ("a", "me/a", "Me-1/a.b_c", "me/a-b"):
        assert is_repository(name), name
    for name in ("", "/a", "a/", "a/b/c", "a b", "me/a.git", "me/a--b", "me/..", "https://x/a"):
        assert not is_repository(name), name
    for name in ("v1", "release/1.0", "2026-01-01"):
        assert is_reference(name), name
    for name in ("", "-v", "a b", "a..b", "a//b", "v1.lock", "v1/", "x" * 101):
        assert not is_reference(name), name
    with refused("push.path: found '../x'"):
        PushSettings(path="../x", folder="a")
    with refused("push.path: found 'x'; accepted with push.folder"):
        PushSettings(path="x")
