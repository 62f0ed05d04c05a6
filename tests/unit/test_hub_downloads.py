"""Sharded downloads resume and are verified, and plans read headers only, with a local hub."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from trainer import hub
from trainer.errors import EnvironmentFault, InputError
from trainer.foreign.downloads import UNVERIFIED
from trainer.models.auto import AutoConfig, AutoModelForCausalLM
from trainer.models.formats.weight_headers import read_headers

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_" + "secret0" * 5
COMMIT = "c" * 40
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 512,
    "max_position_embeddings": 64,
}


class Hub(ThreadingHTTPServer):
    """A hub with the repository org/sharded, which needs the token.

    `requests` lists what was sent: (file, first byte, number of bytes). `cut` are files whose
    connection ends in the middle, once; `down` are files that fail once after that. `damaged` are
    files with a wrong byte, and how often they are sent so.
    """

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests = files, []
        self.cut, self.down, self.damaged, self.is_open = set(), set(), {}, True
        self.endpoint = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.send(401, b"", {"X-Error-Code": "RepoNotFound"})
        if self.path.startswith("/api/models/org/sharded/tree/"):
            files = [
                {"type": "file", "path": name, "size": len(content), "oid": name}
                for name, content in self.server.files.items()
            ]
            return self.send(200, json.dumps(files).encode())
        if self.path.startswith("/api/models/org/sharded"):
            siblings = [{"rfilename": name} for name in self.server.files]
            answer = {"id": "org/sharded", "sha": COMMIT, "siblings": siblings}
            return self.send(200, json.dumps(answer).encode())
        name = self.path.rpartition("/")[2]
        if name not in self.server.files:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        return self.send_file(name, self.server.files[name])

    do_HEAD = do_GET

    def send_file(self, name, content):
        known = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if self.command == "HEAD":
            return self.send(200, content, known)
        if name in self.server.down - self.server.cut:
            self.server.down.discard(name)
            return self.send(503, b"")
        whole, start, status = len(content), 0, 200
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            start, status = int(first), 206
            content = content[start : int(last) + 1 if last else None]
            end = start + len(content) - 1
            known["Content-Range"] = f"bytes {start}-{end}/{whole}"
        if self.server.damaged.get(name):
            self.server.damaged[name] -= 1
            content = bytes([content[0] ^ 255]) + content[1:]
        if name in self.server.cut:
            self.server.cut.discard(name)
            self.server.requests.append((name, start, len(content) // 2))
            self.send(status, content, known, sent=len(content) // 2)
            self.close_connection = True
            return None
        self.server.requests.append((name, start, len(content)))
        return self.send(status, content, known)

    def send(self, status, content, headers=(), sent=None):
        self.send_response(status)
        for name, value in {**dict(headers), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:sent])

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig(CONFIG)).save_pretrained(folder, "150KB")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def server(files, monkeypatch):
    from huggingface_hub import constants

    with Hub(files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
        url = server.endpoint + "".join(template[1:])
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        server.shutdown()
        thread.join()


def shards(files):
    return sorted(name for name in files if name.endswith(".safetensors"))


def test_a_shard_whose_connection_is_cut_is_continued_from_there(server, files, tmp_path, capfd):
    assert len(shards(files)) >= 3
    name = shards(files)[1]
    half = len(files[name]) // 2 // 1000 * 1000  # the bytes sent so far, in pieces
    server.cut = {name}
    folder = hub.find("org/sharded", cache_dir=tmp_path)
    assert "\r" not in capfd.readouterr().err  # a bar would be many lines in a log
    parts = [(start, size) for each, start, size in server.requests if each == name]
    assert parts[1:] == [(half, len(files[name]) - half)]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files
    assert not list(tmp_path.rglob(UNVERIFIED))


def test_the_same_command_continues_once_the_hub_is_back(server, files, tmp_path):
    """Complete shards are not requested again."""
    name = shards(files)[1]
    server.cut, server.down = {name}, {name}
    with pytest.raises(InputError, match="the hub could not be read") as caught:
        hub.find("org/sharded", cache_dir=tmp_path)
    assert "\n" not in str(caught.value) and TOKEN not in str(caught.value)
    complete = {file for file in shards(files) if _is_cached(tmp_path, files[file])}
    assert name not in complete
    del server.requests[:]
    folder = hub.find("org/sharded", cache_dir=tmp_path)
    assert complete.isdisjoint(each for each, _, _ in server.requests)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files
    assert not list(tmp_path.rglob(UNVERIFIED))


def _is_cached(cache, content):
    return bool(list(cache.rglob(f"blobs/{hashlib.sha256(content).hexdigest()}")))


def test_wrong_bytes_are_downloaded_again(server, files, tmp_path, caplog):
    """The size is right, so that only the digest differs; a second time it is an error."""
    name = shards(files)[2]
    server.damaged = {name: 1}
    folder = hub.find("org/sharded", cache_dir=tmp_path)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files
    assert [each for each, _, _ in server.requests].count(name) == 2
    assert "does not match the digest of the hub; downloading it again" in caplog.text
    server.damaged = {name: 9}
    other = tmp_path / "other"
    with pytest.raises(EnvironmentFault, match="twice, and its sha256 is wrong both times"):
        hub.find("org/sharded", cache_dir=other)
    digest = hashlib.sha256(files[name]).hexdigest()
    assert not list(other.rglob(digest)) and not list(other.rglob(name))
    server.damaged = {}
    folder = hub.find("org/sharded", cache_dir=other)
    assert (folder / name).read_bytes() == files[name]


def test_a_download_that_was_killed_is_verified_by_the_next(server, files, tmp_path):
    """Even if the next download is offline; older files are not read again."""
    folder = hub.find("org/sharded", cache_dir=tmp_path)
    repository = folder.parents[1]
    blob = (folder / shards(files)[0]).resolve()
    blob.write_bytes(bytes(len(blob.read_bytes())))
    assert hub.find("org/sharded", cache_dir=tmp_path) == folder  # verified when it arrived
    others = [each.name for each in blob.parent.iterdir() if each != blob]
    (repository / UNVERIFIED).write_text(json.dumps(others))  # like a process that was killed
    with pytest.raises(InputError, match="the hub's cache has only some of its files"):
        hub.find("org/sharded", cache_dir=tmp_path, local_files_only=True)
    assert not blob.exists()
    hub.find("org/sharded", cache_dir=tmp_path)
    assert blob.read_bytes() == files[shards(files)[0]]


def test_headers_are_read_without_the_weights(server, files, tmp_path):
    """From the hub, from a folder and from the cache: the same."""
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    local = read_headers(str(tmp_path), tmp_path)
    config = hub.find("org/sharded", cache_dir=tmp_path / "cache", weights=None)
    remote = read_headers("org/sharded", config)
    assert remote == local and len(local.files) == len(shards(files))
    assert local.shapes["model.embed_tokens.weight"] == (512, 64)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    assert local.num_bytes == 4 * sum(local.parameters.values())
    for damage in (b"", b"<html>", files[shards(files)[0]][:-1]):
        (tmp_path / shards(files)[0]).write_bytes(damage)
        with pytest.raises(InputError, match=shards(files)[0]):
            read_headers(str(tmp_path), tmp_path)


@pytest.mark.slow
def test_a_plan_is_made_from_headers_by_the_variables_of_the_hub(server, files, tmp_path):
    """A separate process, because the hub's client reads its variables at import."""
    environment = {**os.environ, "HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path)}
    environment = {**environment, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "launch.py", "job=plan", "model.path=org/sharded"]
    command += ["plan.length=16", "plan.tokens=32"]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    weights = AutoModelForCausalLM.from_config(AutoConfig(CONFIG))
    total = sum(p.numel() for p in weights.parameters())
    for words in ("org/sharded (llama)", f"parameters  {total:,}", f"{total:,} F32", "fsdp"):
        assert words in found.stdout, found.stdout
    assert TOKEN not in found.stdout + found.stderr
    longest = max(size for name, _, size in server.requests if name in shards(files))
    assert longest <= 100_001 and not list(tmp_path.rglob("*.safetensors"))
    offline = {**environment, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    found = subprocess.run(command, cwd=ROOT, env=offline, capture_output=True, text=True)
    assert found.returncode == 2 and len(found.stderr.strip().splitlines()) == 1, found.stderr
    assert "cannot be reached or is switched off" in found.stderr
