"""Push: compares files with a repository on the hub and sends the differences as one commit."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import InputError
from trainer.foreign.downloads import bars_on_terminals_only
from trainer.option_types import Options
from trainer.pushing.changes import Changes, changes
from trainer.pushing.hub_errors import errors_of_push
from trainer.pushing.push_record import FILE, Content, Identity, record_bytes
from trainer.pushing.remote import Remote, full_name, opened

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger("trainer")

MESSAGE = "Push with tempering"


@dataclass(frozen=True)
class Destination(Options, where="push"):
    """The repository to push to, and the options of the push."""

    repo: str
    """owner/name; without an owner, the token's user is the owner."""
    private: bool = True
    """Whether a new repository is private; if true, pushing to a public repository is refused."""
    revision: str | None = None
    """The branch, created from main if it does not exist; None: main."""
    tags: Sequence[str] = ()
    """The tags to set on the commit."""
    message: str | None = None
    """The commit's message."""
    replace: bool = False
    """Whether files that this program did not write may be replaced or removed."""
    token: str | None = field(default=None, repr=False)
    """The hub's token; None: HF_TOKEN, or the one that `hf auth login` saved."""


@dataclass(frozen=True)
class Pushed:
    """The result of a push."""

    repo: str
    """owner/name."""
    url: str
    commit: str
    private: bool
    sent: tuple[str, ...]
    """Paths that were added or replaced."""
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    """Paths of files that someone else edited; they were left unchanged."""
    num_bytes: int
    """The total size of the sent files."""


def push(contents: Mapping[str, Content], to: Destination, *, partial: bool = False) -> Pushed:
    """Make the repository hold `contents` (path -> file or bytes), and set the tags.

    The repository changes only when everything has been uploaded: all files appear in one commit.
    Unchanged files are not sent again. Files that this program did not write are replaced or
    removed only with `replace`. Files of earlier pushes that are not in `contents` are removed, or
    kept with `partial`. Raises InputError for faults that the user can fix, and EnvironmentFault
    if the hub does not answer; their messages are one line and never contain the token.
    """
    token = _token(to)
    with errors_of_push(to.repo, token), bars_on_terminals_only():
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo = full_name(api, to.repo)
        remote = opened(api, repo, to.revision, to.private)
        wanted = {path: Identity.of(content) for path, content in contents.items()}
        found = changes(wanted, remote, repo, replace=to.replace, partial=partial)
        _check_tags(to.tags, remote, found, repo)
        for path in found.kept:
            log.warning("%s: %s was edited there and stays; replace=true replaces it", repo, path)
        contents = {**contents, FILE: record_bytes(found.record)}
        commit = _committed(api, repo, contents, found, remote, to) if found.any else remote.head
        for tag in to.tags:
            if remote.tags.get(tag) is None:
                api.create_tag(repo, tag=tag, revision=commit)
        size = sum(_size(contents[path]) for path in found.sent_files)
        url = f"{api.endpoint}/{repo}"
        return Pushed(
            repo, url, commit, remote.private, found.sent_files, found.remove, found.kept, size
        )


def with_owner(to: Destination) -> Destination:
    """Fill in the repository's owner and the token. Raises the same errors as `push`."""
    token = _token(to)
    with errors_of_push(to.repo, token):
        from huggingface_hub import HfApi

        return replace(to, repo=full_name(HfApi(token=token), to.repo), token=token)


def _token(to: Destination) -> str:
    with errors_of_push(to.repo, to.token or "\0"):
        from huggingface_hub import get_token

        token = to.token or get_token()
    if not token:
        accepted = "set HF_TOKEN, or run `hf auth login`"
        raise InputError(f"push to '{to.repo}': there is no token for the hub; {accepted}")
    return token


def _check_tags(tags: Sequence[str], remote: Remote, found: Changes, repo: str) -> None:
    """Refuse a tag that already exists at another commit."""
    for tag in tags:
        tagged = remote.tags.get(tag)
        if tagged is not None and (found.any or tagged != remote.head):
            accepted = "accepted: another tag (a tag is not moved)"
            raise InputError(f"push to '{repo}': the tag {tag} is at {tagged[:7]}; {accepted}")


def _committed(
    api: "HfApi",
    repo: str,
    contents: Mapping[str, Content],
    found: Changes,
    remote: Remote,
    to: Destination,
) -> str:
    """Send and commit the files; returns the id of the commit.

    The parent of the commit is the one with which the files were compared. If the branch has moved
    since then, the hub refuses the commit, so that no other change is lost.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    added = [CommitOperationAdd(path, _for_client(contents[path])) for path in found.send]
    removed = [CommitOperationDelete(path) for path in found.remove]
    made = api.create_commit(
        repo,
        [*added, *removed],
        commit_message=to.message or MESSAGE,
        revision=to.revision,
        parent_commit=remote.head,
    )
    return str(made.oid)


def _for_client(content: Content) -> str | bytes:
    return str(content) if isinstance(content, Path) else content


def _size(content: Content) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)
