"""PushSettings: the repository that job=push writes to, and what it sends."""

import re
from dataclasses import dataclass, field
from typing import Literal

from trainer.errors import InputError
from trainer.option_types import Options

REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9_][\w.-]{0,95}")
REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
"""Matches the accepted names of branches and tags."""


@dataclass(frozen=True)
class PushSettings(Options, where="push"):
    """The repository that job=push writes to, and what it sends."""

    repo: str | None = None
    """The repository on the hub: owner/name; without an owner, the token's user is the owner."""
    private: bool = True
    """Create a private repository, and refuse a public one; false: create a public one."""
    revision: str | None = None
    """The branch to push to, created from main if it does not exist; null: main."""
    tags: list[str] = field(default_factory=list)
    """Tags to set on the commit; a tag that already exists on another commit is refused."""
    checkpoints: Literal["none", "last", "all"] = "none"
    """The checkpoints to send in addition to the model, with all files that resuming needs."""
    report: bool | None = None
    """Send report.html, which shows rows of the data; null: only if `private` is true."""
    folder: str | None = None
    """A folder or URL to send instead of the run's model, such as one that job=export wrote."""
    path: str = ""
    """The folder in the repository where the files of `folder` go; empty: the top level."""
    license: str | None = None
    """The hub's name of the license for the model card; null: the license of the base model."""
    message: str | None = None
    """The commit's message; null: the run's name and step."""
    replace: bool = False
    """Replace files that job=push did not write, and a model card that someone edited."""

    def __post_init__(self) -> None:
        if self.repo is not None and not is_repository(self.repo):
            raise InputError(f"push.repo: found '{self.repo}'; accepted: name or owner/name")
        for name, value in [("revision", self.revision), *(("tags", tag) for tag in self.tags)]:
            if value is not None and not (isinstance(value, str) and is_reference(value)):
                accepted = "a name of letters, digits, '.', '_', '-' and '/'"
                raise InputError(f"push.{name}: found '{value}'; accepted: {accepted}")
        parts = self.path.split("/") if self.path else []
        if any(not part or part.startswith(".") for part in parts):
            raise InputError(f"push.path: found '{self.path}'; accepted: a folder, such as gguf")
        if self.path and self.folder is None:
            raise InputError(f"push.path: found '{self.path}'; accepted with push.folder")


def is_repository(name: str) -> bool:
    """Whether a repository on the hub can have this name."""
    odd = name.endswith((".git", ".", "-")) or ".." in name or "--" in name
    return bool(REPOSITORY.fullmatch(name)) and not odd


def is_reference(name: str) -> bool:
    """Whether a branch or a tag can have this name."""
    odd = name.endswith(("/", ".", ".lock")) or ".." in name or "//" in name
    return bool(REFERENCE.fullmatch(name)) and not odd
