"""The hub: resolves a model path (a directory, a hub id, a pkg:// path or a URL) to a folder."""

import hashlib
import importlib.util
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from trainer.errors import EnvironmentFault, InputError, nearest
from trainer.foreign.downloads import bars_on_terminals_only, verified
from trainer.foreign.files import check_adapters, check_model_folder
from trainer.redaction import redacted_text
from trainer.stores.inputs import staged
from trainer.stores.url import check_url, is_in_store, is_url, plain_path, scheme_name
from trainer.terminal.activity import doing

log = logging.getLogger("trainer")

PROBE_SECONDS = 5.0
"""The seconds to wait for the hub's first response if the cache has no file of a repository."""
PACKAGE = "pkg://"
WANTED = ("*.json", "*.txt", "*.model", "*.jinja", "adapter_model*.safetensors")
"""Patterns of files in a hub repository that are downloaded in addition to the weights."""
CODE = "*.py"
"""The files of a repository that hold a model's own code."""
IN_SUBFOLDERS = "*/*"
"""Files in subfolders, which are exports or copies for other frameworks."""
NOT_MODELS = ("hf://buckets/", "hf://datasets/", "hf://spaces/")
"""The prefixes of hub URLs that do not name a model's repository."""
HUB_URL = re.compile(
    r"hf://(models/)?(?P<repository>[^/@]+/[^/@]+)"
    r"(@(?P<revision>refs/(convert/\w+|pr/\d+)|[^/]+))?(?P<inside>/.+)?"
)
"""The hub's URL of a model. Only revisions of pull requests and conversions contain a slash."""
TEMPLATES = "additional_chat_templates/*.jinja"
"""A tokenizer's named chat templates. No other subfolder belongs to a model."""


def find(
    path: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | None = None,
    what: str = "model",
    weights: str | None = "model*.safetensors",
    templates: bool = False,
    subfolder: str = "",
    code: bool = False,
) -> Path:
    """The folder or .gguf file that `path` names; a hub id is downloaded into the hub's cache.

    From a repository, the configs, the vocabulary and the weights are downloaded; `weights` is a
    pattern, and None downloads no weights. `templates` adds the named chat templates, and `code`
    the Python files. With `subfolder`, only that folder is downloaded and returned; a path such as
    name/repo/folder has the same effect. `pkg://package/folder` is found without importing the
    package. A folder at a URL is copied to this machine, without the state that resuming needs.
    Raises InputError, in one line that begins with `what`, if there is no such folder, package or
    repository.
    """
    path, revision = of_url(str(path), revision, what)
    if is_in_store(path):
        folder = staged(path, what, partial(_is_wanted, weights))
        _check_run(folder, path, what)
        return _inside(folder, checked_subfolder(subfolder), path, what)
    path, inside = _repository_of(path)
    inside += checked_subfolder(subfolder)
    wanted = [*WANTED, *([weights] if weights else []), *([CODE] if code else [])]
    patterns = [([inside + each for each in wanted], [inside + IN_SUBFOLDERS])]
    if templates:
        patterns.append(([inside + TEMPLATES], []))
    options = (revision, cache_dir, local_files_only, token)
    found = _find(str(path), what, lambda path: _in_hub(path, what, options, patterns))
    return _inside(found, inside, str(path), what)


def _inside(found: Path, inside: str, path: str, what: str) -> Path:
    """The folder `inside` the folder `found`, or `found` itself if `inside` is empty."""
    if inside and not (found / inside).is_dir():
        raise InputError(f"{what}: '{path}' has no folder '{inside.strip('/')}'")
    folder = found / inside if inside else found
    check_adapters(folder, f"{path.rstrip('/')}/{inside}".rstrip("/"), what)
    return folder


def of_url(path: str, revision: str | None, what: str) -> tuple[str, str | None]:
    """The path and revision that a hub or file URL names; other paths are returned unchanged."""
    if not is_url(path):
        return path, revision
    check_url(path, what)
    if scheme_name(path) == "hf" and not path.startswith(NOT_MODELS):
        found = HUB_URL.fullmatch(path)
        if found is None:
            accepted = "hf://owner/name or hf://owner/name@revision"
            raise InputError(f"{what}: found '{path}'; accepted: {accepted}")
        if revision and found["revision"]:
            given = f"{path} and the setting revision ({revision})"
            raise InputError(f"{what}: {given} both name a revision; accepted: one of them")
        named = unquote(found["revision"]) if found["revision"] else None
        return found["repository"] + (found["inside"] or ""), named or revision
    if revision is not None and is_in_store(path):
        raise InputError(f"{what}: {path} has no revisions; accepted: no revision")
    return plain_path(path), revision


def _is_wanted(weights: str | None, name: str) -> bool:
    """Whether to copy this file of a model's folder from an object store."""
    is_weight = name.endswith((".safetensors", ".bin", ".pt", ".h5"))
    return not name.startswith("state/") and not (weights is None and is_weight)


def _repository_of(path: str) -> tuple[str, str]:
    """The hub id and the folder inside its repository in a path such as name/repo/a.

    If the first part of the path is a folder on this machine, the path is local and is returned
    unchanged.
    """
    parts = path.split("/")
    if not is_remote(path) or len(parts) < 3 or not all(parts) or ".." in parts:
        return path, ""
    if Path(parts[0]).exists():
        return path, ""
    return "/".join(parts[:2]), "/".join((*parts[2:], ""))


def is_remote(path: str) -> bool:
    """Whether a path names a repository of the hub or a URL, not a package, a folder or a file."""
    if is_url(path):
        return is_in_store(path)
    return not path.startswith((PACKAGE, "/", "./", "../", "~")) and not Path(path).exists()


@contextmanager
def errors_in_one_line(
    repo_id: str, what: str, revision: str | None = None, cache_dir: str | Path | None = None
) -> Iterator[None]:
    """Context manager that turns any error of the hub's client into an InputError of one line."""
    try:
        yield
    except EnvironmentFault:
        raise
    except Exception as error:  # errors of the hub's client, of its HTTP library or of the system
        reason = _reason(error, repo_id, revision, cache_dir)
        hint = nearest(repo_id, [each.name for each in Path().iterdir() if each.is_dir()])
        raise InputError(
            f"{what}: '{repo_id}' is not a local directory{hint}, and {reason}"
        ) from None


def checked_subfolder(subfolder: str | None) -> str:
    """The path of a folder inside a model's folder, with a final /; "" without a subfolder.

    Raises InputError for a folder that is not inside the model's folder.
    """
    name = subfolder or ""
    if not isinstance(name, str) or name.startswith("/") or ".." in name.split("/"):
        raise InputError(f"subfolder: found {subfolder!r}; accepted: a folder inside the model's")
    return f"{name.strip('/')}/" if name.strip("/.") else ""


def _find(path: str, what: str, in_hub: Callable[[str], Path]) -> Path:
    if path.startswith(PACKAGE):
        return _in_package(path, what)
    folder = Path(os.path.expanduser(path))
    _check_run(folder, path, what)
    if folder.is_dir():
        check_model_folder(folder, what)
        return folder
    if folder.is_file() and folder.suffix == ".gguf":
        return folder
    if folder.exists():
        raise InputError(f"{what}: '{path}' is a file; accepted: a directory, or a .gguf file")
    if path.startswith(("/", "./", "../", "~")) or path in ("", ".", ".."):
        raise InputError(f"{what}: there is no directory '{path}'")
    return in_hub(path)


def _check_run(folder: Path, path: str, what: str) -> None:
    """Raise InputError for the folder of a run, and for the missing model of an unfinished run.

    The error suggests the run's model or its newest checkpoint.
    """
    unfinished = folder.name == "model" and not folder.exists()
    run = folder.parent if unfinished else folder
    if not (run / "config.yaml").is_file() or (run / "config.json").exists():
        return
    if model := newest_model(run):
        found = "does not exist, since its run is not finished" if unfinished else "is a run"
        raise InputError(f"{what}: '{path}' {found}; did you mean {model}?")


def newest_model(run: Path) -> Path | None:
    """The final model in the folder of a run, or its newest checkpoint; None without either."""
    if (run / "model").is_dir():
        return run / "model"
    steps = [each.name.removeprefix("checkpoint-") for each in run.glob("checkpoint-*")]
    found = max((int(step) for step in steps if step.isdecimal()), default=None)
    return None if found is None else run / f"checkpoint-{found}"


def check_digest(file: Path, sha256: str) -> None:
    """Raise InputError unless the SHA-256 of `file` is `sha256` (64 hex digits)."""
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
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a module that is no file, such as __main__
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{what}: '{path}': the Python package '{package}' is not installed")
    for location in spec.submodule_search_locations:
        folder = Path(location) / inside
        if folder.is_dir() or (folder.is_file() and folder.suffix == ".gguf"):
            return folder
    raise InputError(f"{what}: '{path}': the package '{package}' has no folder '{inside}'")


def _in_hub(
    repo_id: str,
    what: str,
    options: tuple[str | None, str | Path | None, bool, str | None],
    patterns: list[tuple[list[str], list[str]]],
) -> Path:
    """Download what matches the pairs of (wanted, unwanted) patterns; returns the snapshot."""
    from huggingface_hub import snapshot_download

    revision, cache_dir, local_files_only, token = options
    if not local_files_only and repo_id not in _cached(cache_dir):
        if "/" not in repo_id:
            log.warning(
                "%s: there is no folder '%s' here; looking for it on the hub", what, repo_id
            )
        local_files_only = not _can_reach_hub(repo_id)

    def download() -> Path:
        folder = ""
        if not local_files_only:
            doing(f"downloading {repo_id}")
        for wanted, unwanted in patterns:
            folder = snapshot_download(
                repo_id,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=wanted,
                ignore_patterns=unwanted,
            )
        return Path(folder)

    with errors_in_one_line(repo_id, what, revision, cache_dir), bars_on_terminals_only():
        return verified(_cache_of(repo_id, cache_dir), download, local_files_only)


def _can_reach_hub(repo_id: str) -> bool:
    """Whether the hub responds within PROBE_SECONDS; its own client would retry for 30 seconds."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(f"{constants.ENDPOINT}/api/models/{repo_id}", timeout=PROBE_SECONDS)
    except Exception:  # an error of the HTTP library or the system means that it does not respond
        return False
    return True


def _reason(
    error: Exception, repo_id: str, revision: str | None, cache_dir: str | Path | None
) -> str:
    """The reason why the download failed, in one line without secrets."""
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        return "it is not a hub id either (accepted: name or organization/name)"
    if isinstance(error, errors.GatedRepoError):
        return "on the hub it is gated: ask for access on its page, then log in or pass a token"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"on the hub it has no revision '{revision}'"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such repository (a private one needs a token)"
    if isinstance(error, errors.NotASafetensorsRepoError):
        return "on the hub it has no safetensors files, the only ones that are read"
    if isinstance(error, errors.SafetensorsParsingError):
        return "on the hub its safetensors files are damaged"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        cached = _cached(cache_dir)
        if repo_id in cached:
            return "the hub's cache has only some of its files, and the hub cannot be reached"
        return (
            "it is not in the hub's cache and the hub cannot be reached or is switched off; "
            f"cached: {_shown(cached)}{nearest(repo_id, cached)}"
        )
    lines = str(error).strip().splitlines() or [""]
    message = redacted_text(lines[0])[:200]
    return f"the hub could not be read ({type(error).__name__}: {message})"


def _cache_of(repo_id: str, cache_dir: str | Path | None) -> Path:
    """The folder of a repository in the hub's cache."""
    from huggingface_hub import constants

    return Path(cache_dir or constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"


def _cached(cache_dir: str | Path | None) -> list[str]:
    """The ids of the models with a snapshot in the hub's cache."""
    from huggingface_hub import constants

    snapshots = Path(cache_dir or constants.HF_HUB_CACHE).glob("models--*/snapshots/*")
    folders = {snapshot.parent.parent.name for snapshot in snapshots}
    return sorted(name.removeprefix("models--").replace("--", "/") for name in folders)


def _shown(names: list[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more or "nothing"
