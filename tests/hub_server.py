"""A hub on this machine that speaks the protocol of repositories: create, commit, LFS, tags."""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_" + "secret0" * 5
OWNER = "me"
LARGE = 1000
"""Bytes from which a file goes to LFS; the hub itself looks at names too."""
PART = 100_000
"""Bytes from which an upload is sent in parts of this size."""


@dataclass
class Repository:
    """Commits, branches and tags; a commit is a mapping of paths to names of contents."""

    private: bool
    gated: bool = False
    commits: dict[str, dict[str, str]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    """Names of contents that are stored by LFS."""

    def commit(self, branch: str, tree: dict[str, str], message: str) -> str:
        self.messages.append(message)
        name = hashlib.sha1(f"{len(self.commits)} {sorted(tree.items())}".encode()).hexdigest()
        self.commits[name], self.branches[branch] = tree, name
        return name

    def resolve(self, revision: str) -> str | None:
        found = self.branches.get(revision) or self.tags.get(revision)
        return found or (revision if revision in self.commits else None)


class Hub(ThreadingHTTPServer):
    """`repositories` by name; `contents` by git's name or SHA-256; `requests` as (method, path)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.contents: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.fail: dict[str, int] = {}
        """Part of a path -> the status that requests for it get."""
        self.hold = threading.Event()
        """Uploads wait until it is set."""
        self.hold.set()
        self.waiting = threading.Event()
        """Set once an upload waits."""

    def tree(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        found = self.repositories[repo]
        commit = found.resolve(revision)
        assert commit is not None
        return {path: self.contents[oid] for path, oid in found.commits[commit].items()}

    def store(self, content: bytes) -> str:
        name = git_name(content)
        self.contents[name] = content
        return name

    def put(self, repo: str, files: dict[str, bytes], branch: str = "main") -> None:
        """A commit by somebody else."""
        found = self.repositories[repo]
        tree = dict(found.commits[found.branches[branch]])
        tree |= {path: self.store(content) for path, content in files.items()}
        found.commit(branch, tree, "by hand")

    def create(self, repo: str, private: bool = True, gated: bool = False) -> Repository:
        found = self.repositories[repo] = Repository(private, gated)
        found.commit("main", {".gitattributes": self.store(b"*.bin filter=lfs\n")}, "initial")
        return found


def git_name(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet; else each answer is delayed by 40 ms
    disable_nagle_algorithm = True
    server: Hub

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(self._chunks())
        self.server.requests.append((self.command, unquote(path)))
        for part, status in self.server.fail.items():
            if part in path:
                return self._send(status, {"error": f"no, and not with {TOKEN}"})
        if path.startswith("/lfs/"):  # its addresses are signed and need no token
            return self._upload(path, body)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            known = "RepoNotFound" if "/models/" in path else None
            return self._send(401, {"error": "Invalid credentials in Authorization header"}, known)
        if path == "/api/whoami-v2":
            return self._send(200, {"name": OWNER, "orgs": [], "type": "user"})
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        repo, found, rest = self._repository(path)
        if found is None:
            return self._send(404, {"error": "Repository not found"}, "RepoNotFound")
        if path.startswith("/api/"):
            return self._api(repo, found, rest, body)
        if rest == ".git/info/lfs/objects/batch":
            return self._batch(json.loads(body))
        return self._file(found, rest)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _repository(self, path: str) -> tuple[str, Repository | None, str]:
        found = re.match(r"(?:/api/models)?/([\w.-]+/[\w-]+(?:\.[\w-]+)*?)(\.git/.*|/.*|)$", path)
        repo, rest = (found[1], unquote(found[2])) if found else ("", "")
        return repo, self.server.repositories.get(repo), rest

    def _create(self, asked: dict[str, str]) -> None:
        owner = asked.get("organization") or OWNER
        if owner != OWNER:
            said = f'You don\'t have the rights to create a model under the namespace "{owner}"'
            return self._send(403, {"error": said})
        repo = f"{owner}/{asked['name']}"
        if repo in self.server.repositories:
            return self._send(409, {"error": "You already created this model repo"})
        self.server.create(repo, asked.get("visibility") == "private")
        return self._send(200, {"url": f"{self.server.endpoint}/{repo}"})

    def _validate(self, card: str) -> None:
        try:
            found = yaml.safe_load(card.split("---\n")[1])
            wrong = [] if isinstance(found, dict) else ["no mapping"]
            if not re.fullmatch(r"[a-z0-9.-]+", found.get("license", "mit")):
                wrong = ['"license" must be one of the known ones']
        except (yaml.YAMLError, IndexError) as error:
            wrong = [str(error)]
        errors = [{"message": words} for words in wrong]
        self._send(400 if errors else 200, {"errors": errors, "warnings": []})

    def _api(self, repo: str, found: Repository, rest: str, body: bytes) -> None:
        action, _, revision = rest.strip("/").partition("/")
        commit = found.resolve(revision or "main")
        if action == "refs":
            return self._send(200, _refs(found))
        if action == "branch" and revision not in found.branches:
            found.branches[revision] = found.branches["main"]
            return self._send(200, {})
        if commit is None:
            return self._send(404, {"error": "no such revision"}, "RevisionNotFound")
        if action == "tag":
            tag = json.loads(body)["tag"]
            if tag in found.tags:
                return self._send(409, {"error": "Tag already exists"})
            found.tags[tag] = commit
            return self._send(200, {})
        if action == "tree":
            return self._send(
                200, [self._entry(found, *item) for item in self._tree(found, commit)]
            )
        if action == "preupload":
            return self._preupload(found, commit, json.loads(body))
        if action == "commit":
            return self._commit(repo, found, revision, commit, body)
        if action in ("", "revision"):
            siblings = [{"rfilename": path} for path, _ in self._tree(found, commit)]
            info = {"id": repo, "sha": commit, "siblings": siblings, "tags": []}
            return self._send(200, {**info, "private": found.private, "gated": found.gated})
        return self._send(404, {"error": f"no {action}"})

    def _tree(self, found: Repository, commit: str) -> list[tuple[str, str]]:
        return sorted(found.commits[commit].items())

    def _entry(self, found: Repository, path: str, oid: str) -> dict[str, object]:
        size = len(self.server.contents[oid])
        entry: dict[str, object] = {"type": "file", "path": path, "size": size, "oid": oid}
        if oid in found.large:
            entry |= {"oid": "0" * 40, "lfs": {"oid": oid, "size": size, "pointerSize": 130}}
        return entry

    def _preupload(self, found: Repository, commit: str, asked: dict[str, list]) -> None:
        tree = found.commits[commit]
        answers = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if each["size"] >= LARGE else "regular",
                "shouldIgnore": False,
                "oid": tree.get(each["path"]),
            }
            for each in asked["files"]
        ]
        self._send(200, {"files": answers})

    def _batch(self, asked: dict[str, list]) -> None:
        objects = []
        for each in asked["objects"]:
            entry = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.server.contents:
                url = f"{self.server.endpoint}/lfs/{each['oid']}"
                upload: dict[str, object] = {"href": url}
                if each["size"] > PART:
                    count = -(-each["size"] // PART)
                    urls = {f"{n + 1:05d}": f"{url}/{n}" for n in range(count)}
                    upload["header"] = {"chunk_size": str(PART), **urls}
                entry["actions"] = {"upload": upload}
            objects.append(entry)
        self._send(200, {"transfer": "basic", "objects": objects})

    def _upload(self, path: str, body: bytes) -> None:
        if not self.server.hold.is_set():
            self.server.waiting.set()
            self.server.hold.wait(600)
        _, _, oid, *part = path.split("/")
        if part:
            self.server.parts[oid, int(part[0])] = body
            return self._send(200, {}, None, {"ETag": f'"{part[0]}"'})
        if self.command == "POST":  # the last request of an upload in parts
            numbers = sorted(n for key, n in self.server.parts if key == oid)
            body = b"".join(self.server.parts[oid, n] for n in numbers)
        if hashlib.sha256(body).hexdigest() != oid:
            return self._send(400, {"error": "not the content that was announced"})
        self.server.contents[oid] = body
        return self._send(200, {})

    def _commit(self, repo: str, found: Repository, branch: str, commit: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        head = lines[0]["value"]
        if head.get("parentCommit", commit) != commit:
            return self._send(412, {"error": "A commit has happened since. Please refresh"})
        tree = dict(found.commits[commit])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = self.server.store(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.server.contents:
                    return self._send(400, {"error": f"no content for {value['path']}"})
                tree[value["path"]] = value["oid"]
                found.large.add(value["oid"])
            else:
                del tree[value["path"]]
        name = found.commit(branch, tree, head["summary"])
        url = f"{self.server.endpoint}/{repo}/commit/{name}"
        return self._send(200, {"commitUrl": url, "commitOid": name})

    def _file(self, found: Repository, rest: str) -> None:
        revision, _, path = rest.removeprefix("/resolve/").partition("/")
        commit = found.resolve(revision)
        if found.gated:
            return self._send(403, {"error": "gated"}, "GatedRepo")
        if commit is None:
            return self._send(404, {}, "RevisionNotFound")
        oid = found.commits[commit].get(path)
        if oid is None:
            return self._send(404, {}, "EntryNotFound")
        headers = {"ETag": f'"{oid}"', "X-Repo-Commit": commit}
        return self._send(200, self.server.contents[oid], None, headers)

    def _send(
        self,
        status: int,
        content: object,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        known = {"Content-Length": str(len(data)), **(headers or {})}
        if not isinstance(content, bytes):
            known["Content-Type"] = "application/json"
        if code:
            known["X-Error-Code"] = code
        for name, value in known.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def _refs(found: Repository) -> dict[str, object]:
    def listed(named: dict[str, str], kind: str) -> list[dict[str, str]]:
        return [
            {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}
            for name, commit in named.items()
        ]

    tags = listed(found.tags, "tags")
    return {"branches": listed(found.branches, "heads"), "converts": [], "tags": tags}


@contextmanager
def hub_here(monkeypatch) -> Iterator[Hub]:
    """The hub, which the client of this process uses, with the token in HF_TOKEN.

    The client's cache is a folder of its own, since the user's may not be writable.
    """
    from huggingface_hub import constants

    with Hub() as server, TemporaryDirectory() as cache:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
        url = server.endpoint + "".join(template[1:])
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        impatient = SimpleNamespace(**{**vars(time), "sleep": lambda _: None})
        monkeypatch.setattr("huggingface_hub.utils._http.time", impatient)
        try:
            yield server
        finally:
            server.hold.set()
            server.shutdown()
            thread.join()
