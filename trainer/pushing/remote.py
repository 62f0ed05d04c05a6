"""Remote: a repository on the hub before a push, with its files, tags and record of pushes."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import InputError
from trainer.pushing.push_record import FILE, Identity, read_record

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAIN = "main"


@dataclass(frozen=True)
class Remote:
    """The content of one branch of a repository."""

    head: str
    """The id of the branch's last commit."""
    private: bool
    oids: Mapping[str, str] = field(default_factory=dict)
    """Path of a file -> the hub's object id of its content."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tag -> the id of the commit that it names."""
    record: Mapping[str, Identity] = field(default_factory=dict)
    """The files that this program wrote, according to pushed.json."""


def full_name(api: "HfApi", repo: str) -> str:
    """The repository's owner/name; the owner is the user of the token if `repo` has none."""
    return repo if "/" in repo else f"{api.whoami()['name']}/{repo}"


def opened(api: "HfApi", repo: str, branch: str | None, private: bool) -> Remote:
    """Read a branch of a repository. Creates the repository, or the branch from main, if missing.

    Raises InputError if `private` is set and the repository is public.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.repo_info(repo)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=private)
        info = api.repo_info(repo)
    if private and not info.private:
        accepted = "private=false, or another repository"
        raise InputError(f"push to '{repo}': it is public; accepted: {accepted}")
    refs = api.list_repo_refs(repo)
    if branch and branch not in [MAIN, *(each.name for each in refs.branches)]:
        api.create_branch(repo, branch=branch, exist_ok=True)
    head = str(api.repo_info(repo, revision=branch).sha if branch else info.sha)
    tags = {each.name: each.target_commit for each in refs.tags}
    return _read(api, repo, Remote(head, bool(info.private), tags=tags))


def _read(api: "HfApi", repo: str, remote: Remote) -> Remote:
    from huggingface_hub import RepoFile

    oids = {}
    for entry in api.list_repo_tree(repo, recursive=True, revision=remote.head):
        if isinstance(entry, RepoFile):
            oids[entry.path] = entry.lfs.sha256 if entry.lfs else entry.blob_id
    record = _record(api, repo, remote.head) if FILE in oids else {}
    return Remote(remote.head, remote.private, oids, remote.tags, record)


def _record(api: "HfApi", repo: str, head: str) -> Mapping[str, Identity]:
    """Read pushed.json from the repository. Returns {} if it is not in this program's format."""
    with tempfile.TemporaryDirectory() as folder:
        path = api.hf_hub_download(repo, FILE, revision=head, cache_dir=folder)
        return read_record(Path(path).read_bytes()) or {}
