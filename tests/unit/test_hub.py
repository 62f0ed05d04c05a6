"""Folders from local paths, packages and the hub's cache; every failure is one line."""

import hashlib
import json
import socket
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType, SimpleNamespace

import pytest

from trainer import hub
from trainer.errors import InputError
from trainer.hub import check_digest, find
from trainer.models.auto import AutoConfig
from trainer.tokenizer import Tokenizer


def refused(path, *parts, **options):
    with pytest.raises(InputError) as caught:
        find(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_a_local_folder_wins(tmp_path, monkeypatch):
    (tmp_path / "bert-base-cased").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find("bert-base-cased").resolve() == tmp_path / "bert-base-cased"
    assert find(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find("~/bert-base-cased") == tmp_path / "bert-base-cased"


@pytest.mark.parametrize("path", ["/no/such", "./no-such", "../no-such", "~/no-such", ""])
def test_what_looks_local_is_never_asked_of_the_hub(path, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    if path:
        refused(path, f"model: there is no directory '{path}'")
        refused(path, "tokenizer: there is no directory", what="tokenizer")
    else:
        assert find(path).is_dir()  # the current folder as the system reports it


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model.bin").touch()
    refused(str(tmp_path / "model.bin"), "is a file; accepted: a directory, or a .gguf file")


def test_a_gguf_file_is_found_alone_and_in_a_package(tmp_path, monkeypatch):
    package = tmp_path / "gguf_for_a_test"
    package.mkdir()
    (package / "model.gguf").touch()
    assert find(str(package / "model.gguf")) == package / "model.gguf"
    monkeypatch.syspath_prepend(tmp_path)
    assert find("pkg://gguf_for_a_test/model.gguf") == package / "model.gguf"


def test_a_packaged_folder_is_found_without_importing(tmp_path, monkeypatch):
    package = tmp_path / "weights_for_a_test"
    (package / "model" / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert find("pkg://weights_for_a_test/model/deep") == package / "model" / "deep"
    assert find("pkg://weights_for_a_test") == package
    assert "weights_for_a_test" not in sys.modules
    refused(
        "pkg://weights_for_a_test/none", "the package 'weights_for_a_test' has no folder 'none'"
    )
    for path in ("pkg://weights_for_a_test/../x", "pkg://", "pkg://a.b/c", "pkg://x//etc"):
        refused(path, "accepted: pkg://package/folder")


def test_a_package_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "made_by_code", ModuleType("made_by_code"))  # as __main__
    refused("pkg://made_by_code/x", "the Python package 'made_by_code' is not installed")
    refused("pkg://no_such_package_here/x", "the Python package 'no_such_package_here' is not")
    refused("pkg://this/x", "the Python package 'this' is not installed")  # a module, not a package


def test_a_cached_repository_is_used_offline(tmp_path):
    """The cache in huggingface_hub's layout."""
    snapshot = tmp_path / "models--org--name" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = tmp_path / "models--org--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    assert find("org/name", cache_dir=tmp_path, local_files_only=True) == snapshot


def test_an_unknown_name_offline_is_told_what_is_cached(tmp_path):
    offline = {"cache_dir": tmp_path, "local_files_only": True}
    refused("org/name", "it is not in the hub's cache", "switched off; cached: nothing", **offline)
    for number in range(9):
        (tmp_path / f"models--org--name-{number}" / "snapshots" / "0").mkdir(parents=True)
    (tmp_path / "models--gpt2").mkdir()  # without a snapshot: not cached
    (tmp_path / "datasets--a--b" / "snapshots" / "0").mkdir(parents=True)
    refused(
        "org/nam-3",
        "cached: org/name-0, org/name-1,",
        "org/name-7, ... (9 in all); did you mean 'org/name-3'?",
        **offline,
    )


def test_what_the_hub_does_not_give(tmp_path):
    offline = {"cache_dir": tmp_path, "local_files_only": True}
    refused(
        "org/name",
        "'org/name' is not a local directory, and it is not in the hub's cache",
        **offline,
    )
    refused("a/b//c", "it is not a hub id either (accepted: name or organization/name)", **offline)
    refused("a/b/c", "'a/b' is not a local directory", **offline)  # a folder of a repository
    refused("no spaces here", "it is not a hub id either", **offline)


ANSWERS = {
    "GatedRepo": (403, "on the hub it is gated"),
    "RepoNotFound": (404, "the hub has no such repository"),
    "RevisionNotFound": (404, "on the hub it has no revision 'v9'"),
    "": (400, "the hub cannot be reached"),
}


@contextmanager
def serving(monkeypatch, handler):
    """A server on this machine that replaces the hub."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    files = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "".join(files[1:]))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hub_that_answers(monkeypatch):
    """A local hub that refuses everything: set its `answer` to a key of ANSWERS."""

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(ANSWERS[server.answer][0])
            self.send_header("X-Error-Code", server.answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with serving(monkeypatch, Refuse) as server:
        yield server


@pytest.mark.parametrize("answer", ANSWERS)
def test_every_refusal_of_the_hub_is_one_line(tmp_path, hub_that_answers, answer):
    hub_that_answers.answer = answer
    message = ANSWERS[answer][1]
    where = "model: 'org/name' is not a local directory, and"
    refused("org/name", where, message, revision="v9", cache_dir=tmp_path)


COMMITS = {"main": "a" * 40, "v1": "b" * 40}
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"words",
    "pytorch_model.bin": b"never",
    "model.onnx": b"never",
    "onnx/config.json": b"onnx",
    "onnx/deeper/config.json": b"never",
    "additional_chat_templates/tool_use.jinja": b"template",
}


@pytest.fixture
def hub_with_a_repository(monkeypatch):
    """A hub with two revisions of org/name that requires a token; `asked` lists the files sent."""

    class Serve(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.headers.get("Authorization") != "Bearer hf_secret":
                return self.send(401, b"", {"X-Error-Code": "RepoNotFound"})
            if self.path.startswith("/api/models/org/name/tree/"):
                files = [{"type": "file", "path": name, "size": 8, "oid": name} for name in FILES]
                return self.send(200, json.dumps(files).encode(), {})
            if self.path.startswith("/api/models/org/name"):
                sha = COMMITS[self.path.rpartition("/revision/")[2].split("?")[0]]
                files = [{"rfilename": name} for name in FILES]
                answer = {"id": "org/name", "sha": sha, "siblings": files}
                return self.send(200, json.dumps(answer).encode(), {})
            commit, _, name = self.path.removeprefix("/org/name/resolve/").partition("/")
            content = FILES[name] + commit[:1].encode()
            if self.command == "GET":
                server.asked.append(name)
            return self.send(200, content, {"ETag": f'"{name}{commit}"', "X-Repo-Commit": commit})

        do_HEAD = do_GET

        def send(self, status, content, headers):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    with serving(monkeypatch, Serve) as server:
        server.asked = []
        yield server


def test_a_repository_is_downloaded_once(tmp_path, hub_with_a_repository):
    """The required files of the requested revision; the second time from the cache."""
    options = {"cache_dir": tmp_path, "token": "hf_secret"}
    folder = find("org/name", **options)
    wanted = {"config.json", "model.safetensors", "tokenizer.json"}
    assert {file.name for file in folder.iterdir()} == set(hub_with_a_repository.asked) == wanted
    assert (folder / "model.safetensors").read_bytes() == b"weightsa"
    assert find("org/name", **options) == folder
    assert len(hub_with_a_repository.asked) == 3
    other = find("org/name", revision="v1", **options)
    assert (other / "model.safetensors").read_bytes() == b"weightsb"
    assert find("org/name", revision="v1", cache_dir=tmp_path, local_files_only=True) == other
    private = "the hub has no such repository (a private one needs a token)"
    refused("org/name", private, cache_dir=tmp_path / "other")
    assert find("org/name", cache_dir=tmp_path, local_files_only=True) == folder
    hub_with_a_repository.shutdown()
    hub_with_a_repository.socket.close()
    assert find("org/name", **options) == folder  # the hub is gone but the cache remains


def test_a_subfolder_and_named_templates_are_downloaded_where_they_are_asked_for(
    tmp_path, hub_with_a_repository
):
    options = {"cache_dir": tmp_path, "token": "hf_secret"}
    asked = hub_with_a_repository.asked
    folder = find("org/name", **options, weights=None, templates=True)
    kept = {"config.json", "tokenizer.json", "additional_chat_templates/tool_use.jinja"}
    assert set(asked) == kept and (folder / "additional_chat_templates/tool_use.jinja").is_file()
    del asked[:]
    below = find("org/name", **options, subfolder="onnx")
    assert asked == ["onnx/config.json"] and below.name == "onnx"
    assert find("org/name/onnx", **options) == below
    refused("org/name", "model: 'org/name' has no folder 'flax'", **options, subfolder="flax")
    refused("org/name/flax", "model: 'org/name' has no folder 'flax'", **options)
    for wrong in ("../x", "/etc", "a/../../b"):
        refused("org/name", f"subfolder: found '{wrong}'", **options, subfolder=wrong)


def test_a_tokenizer_and_a_config_of_the_hub_need_no_weights(tmp_path, hub_with_a_repository):
    template = "additional_chat_templates/tool_use.jinja"
    for cls, more in ((Tokenizer, {template}), (AutoConfig, set())):
        del hub_with_a_repository.asked[:]
        with pytest.raises(InputError, match="json"):  # the server's files are not in any format
            cls.from_pretrained("org/name", cache_dir=tmp_path / cls.__name__, token="hf_secret")
        assert set(hub_with_a_repository.asked) == {"config.json", "tokenizer.json", *more}


def test_digests(tmp_path):
    file = tmp_path / "w"
    file.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    check_digest(file, digest)
    check_digest(file, digest.upper())
    with pytest.raises(InputError, match=f"its sha256 is {digest}; accepted: {'0' * 64}"):
        check_digest(file, "0" * 64)
    with pytest.raises(InputError, match="64 hexadecimal digits"):
        check_digest(file, "abc")
    with pytest.raises(InputError, match="there is no such file"):
        check_digest(tmp_path / "x", digest)


def test_a_hub_that_does_not_answer_is_given_up_at_once(tmp_path, monkeypatch, caplog):
    """It is asked once, and waited for as long as it may take to answer."""
    from huggingface_hub import utils

    (tmp_path / "minilm").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.3)
    session, waited = utils.get_session(), []

    def head(url, timeout):
        waited.append(timeout)
        return session.head(url, timeout=timeout)

    monkeypatch.setattr(utils, "get_session", lambda: SimpleNamespace(head=head))
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections but never answers
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        refused(
            "minlm", "not a local directory; did you mean 'minilm'?, and it is not in the hub's"
        )
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # there was no second attempt
            silent.accept()
    assert waited == [0.3]
    assert "there is no folder 'minlm' here; looking for it on the hub" in caplog.text
