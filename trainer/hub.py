"""A path to a folder: a local directory, a hub id, or pkg:// for what a Python package ships."""

import hashlib
import importlib.util
import logging
import re
from pathlib import Path

from trainer.errors import InputError, nearest
from trainer.foreign_files import check_model_folder

log = logging.getLogger("trainer")

PROBE_SECONDS = 5.0
"""For the first answer of the hub, where nothing of a repository is here yet."""
PACKAGE = "pkg://"
WANTED = ("*.json", "*.txt", "*.model", "*.jinja", "adapter_model*.safetensors")
"""Files of a hub repository that a model or a tokenizer is read from, beside the weights."""
UNWANTED = ("*/*",)
"""Other frameworks' copies and exports in sub-folders."""


def find(
    path: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | None = None,
    what: str = "model",
    weights: str = "model*.safetensors",
) -> Path:
    """The folder or .gguf file that `path` names; a hub id is downloaded into the hub's cache.

    `weights` is the pattern of the weight files that are downloaded. `pkg://package/folder` is
    found without importing the package. Raises InputError, one line that
    names `what`, where there is no such folder, package or repository.
    """
    path = str(path)
    if path.startswith(PACKAGE):
        return _in_package(path, what)
    folder = Path(path).expanduser()
    if folder.is_dir():
        check_model_folder(folder, what)
        return folder
    if folder.is_file() and folder.suffix == ".gguf":
        return folder
    if folder.exists():
        raise InputError(f"{what}: '{path}' is a file; accepted: a directory, or a .gguf file")
    if path.startswith(("/", "./", "../", "~")) or path in ("", ".", ".."):
        raise InputError(f"{what}: there is no directory '{path}'")
    return _in_hub(path, revision, cache_dir, local_files_only, token, what, weights)


def check_digest(file: Path, sha256: str) -> None:
    """Raises InputError unless the SHA-256 of `file` is `sha256` (64 hex digits)."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise InputError(f"sha256: found {sha256!r}; accepted: 64 hexadecimal digits")
    if not file.is_file():
        raise InputError(f"{file}: there is no such file to check the sha256 of")
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256.lower():
        raise InputError(f"{file}: its sha256 is {found}; accepted: {sha256.lower()}")


def _in_package(path: str, what: str) -> Path:
    package, _, inside = path.removeprefix(PACKAGE).partition("/")
    if not package.isidentifier() or ".." in Path(inside).parts or Path(inside).is_absolute():
        raise InputError(f"{what}: found '{path}'; accepted: pkg://package/folder")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{what}: '{path}': the Python package '{package}' is not installed")
    for location in spec.submodule_search_locations:
        folder = Path(location) / inside
        if folder.is_dir() or (folder.is_file() and folder.suffix == ".gguf"):
            return folder
    raise InputError(f"{what}: '{path}': the package '{package}' has no folder '{inside}'")


def _in_hub(
    repo_id: str,
    revision: str | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
    token: str | None,
    what: str,
    weights: str,
) -> Path:
    from huggingface_hub import snapshot_download

    if not local_files_only and repo_id not in _cached(cache_dir):
        if "/" not in repo_id:
            log.warning(
                "%s: there is no folder '%s' here; looking for it on the hub", what, repo_id
            )
        local_files_only = not _answers(repo_id)
    try:
        folder = snapshot_download(
            repo_id,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
            allow_patterns=[*WANTED, weights],
            ignore_patterns=list(UNWANTED),
        )
    except Exception as error:  # the hub client raises its own, its HTTP library's and the system's
        reason = _reason(error, repo_id, revision, cache_dir)
        hint = nearest(repo_id, [each.name for each in Path().iterdir() if each.is_dir()])
        raise InputError(f"{what}: '{repo_id}' is no local directory{hint}, and {reason}") from None
    return Path(folder)


def _answers(repo_id: str) -> bool:
    """Whether the hub answers at all, asked once: its client would try for half a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(f"{constants.ENDPOINT}/api/models/{repo_id}", timeout=PROBE_SECONDS)
    except Exception:  # the HTTP library's, and the system's; the reason is told as for no cache
        return False
    return True


def _reason(
    error: Exception, repo_id: str, revision: str | None, cache_dir: str | Path | None
) -> str:
    """One line on why the hub gave nothing."""
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        return "it is no hub id either (accepted: name or organisation/name)"
    if isinstance(error, errors.GatedRepoError):
        return "on the hub it is gated: ask for access on its page, then log in or pass a token"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"on the hub it has no revision '{revision}'"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such repository (a private one needs a token)"
    if isinstance(error, errors.LocalEntryNotFoundError):
        cached = _cached(cache_dir)
        return (
            "it is not in the hub's cache and the hub cannot be reached or is switched off; "
            f"cached: {_shown(cached)}{nearest(repo_id, cached)}"
        )
    lines = str(error).strip().splitlines() or [""]
    return f"the hub could not be read ({type(error).__name__}: {lines[0][:200]})"


def _cached(cache_dir: str | Path | None) -> list[str]:
    """The ids of the models that the hub's cache holds a snapshot of."""
    from huggingface_hub import constants

    snapshots = Path(cache_dir or constants.HF_HUB_CACHE).glob("models--*/snapshots/*")
    folders = {snapshot.parent.parent.name for snapshot in snapshots}
    return sorted(name.removeprefix("models--").replace("--", "/") for name in folders)


def _shown(names: list[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more or "nothing"
