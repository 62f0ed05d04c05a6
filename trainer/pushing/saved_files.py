"""push_to_hub of models and tokenizers: sends their saved files to a repository."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict, Unpack

from trainer.checkpoint.verify import MANIFEST, regular_files
from trainer.errors import InputError
from trainer.pushing.push import Destination, push

HIDDEN = "."
"""Files and folders whose names begin with this character are not sent."""
UNSUPPORTED = {
    "create_pr": "accepted: False; push to a branch with revision=...",
    "commit_description": "accepted: None; commit_message holds the text",
    "use_temp_dir": "accepted: None; files are always saved to a temporary folder first",
    "safe_serialization": "accepted: True; pickled weights can run code and are not written",
    "tags": "accepted: None; edit the tags of the model in README.md",
}
"""Unsupported arguments of transformers' push_to_hub -> the end of the error message."""


class SavedOptions(TypedDict, total=False):
    """The keyword arguments of `push_to_hub` of models and tokenizers."""

    commit_message: str | None
    private: bool | None
    token: str | None
    revision: str | None
    replace: bool
    create_pr: bool
    commit_description: str | None
    use_temp_dir: bool | None
    safe_serialization: bool
    tags: list[str] | None


def push_saved(save: Callable[[Path], object], repo: str, **options: Unpack[SavedOptions]) -> str:
    """Send the files that `save` writes into a folder; returns the URL of the commit.

    Unlike in transformers, `private` is true by default. Raises the same errors as `push`,
    InputError for arguments of transformers that are not supported, and TypeError for any other
    unknown argument.
    """
    for name, value in options.items():
        if name not in SavedOptions.__annotations__:
            raise TypeError(f"push_to_hub() got an unexpected keyword argument '{name}'")
        asks_for_pickles = name == "safe_serialization" and value is not None and not value
        if asks_for_pickles or (name in UNSUPPORTED and name != "safe_serialization" and value):
            raise InputError(f"{name}: found {value!r}; {UNSUPPORTED[name]}")
    to = Destination(
        repo,
        private=options.get("private") is not False,
        revision=options.get("revision"),
        message=options.get("commit_message"),
        replace=options.get("replace", False),
        token=options.get("token"),
    )
    with tempfile.TemporaryDirectory(prefix="tempering-push-") as folder:
        save(Path(folder))
        done = push(files_of(Path(folder)), to, partial=True)
    return f"{done.url}/commit/{done.commit}"


def files_of(folder: Path, below: str = "") -> dict[str, Path]:
    """List the files of a folder, except the manifest and hidden files, by path in the repository.

    `below` is put before each path. Raises EnvironmentFault for a symbolic link or a device file.
    """
    return {
        f"{below}{name}": folder / name
        for name in sorted(regular_files(folder))
        if name != MANIFEST and not any(part.startswith(HIDDEN) for part in name.split("/"))
    }
