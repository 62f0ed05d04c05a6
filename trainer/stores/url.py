"""Store URLs: the accepted schemes, and the requirements of each scheme."""

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from trainer.errors import InputError

EXTRA = "pip install 'tempering[stores]'"
AWS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role"
GOOGLE = "GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth application-default login"
HUB = "HF_TOKEN, or hf auth login"
AZURE = "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN"
SSH = "a key of your ssh agent or in ~/.ssh"


@dataclass(frozen=True)
class Scheme:
    """The requirements of URLs with one scheme."""

    package: str | None = None
    """The Python package that must be installed; None if no extra package is needed."""
    install: str = ""
    """The command that installs the package."""
    credentials: str = "credentials"
    """The places where credentials are looked up, for messages."""
    writable: bool = True
    """Whether files can be written."""
    has_folders: bool = False
    """Whether a folder must be created before files are written to it."""
    by_ranges: bool = True
    """Whether files can be listed, and parts of a file can be requested."""


SCHEMES = {
    "s3": Scheme("s3fs", EXTRA, AWS),
    "s3a": Scheme("s3fs", EXTRA, AWS),
    "gs": Scheme("gcsfs", EXTRA, GOOGLE),
    "gcs": Scheme("gcsfs", EXTRA, GOOGLE),
    "hf": Scheme("huggingface_hub", EXTRA, HUB),
    "az": Scheme("adlfs", "pip install adlfs", AZURE),
    "abfs": Scheme("adlfs", "pip install adlfs", AZURE),
    "abfss": Scheme("adlfs", "pip install adlfs", AZURE),
    "sftp": Scheme("paramiko", "pip install paramiko", SSH, has_folders=True),
    "ssh": Scheme("paramiko", "pip install paramiko", SSH, has_folders=True),
    "http": Scheme("aiohttp", "pip install aiohttp", writable=False, by_ranges=False),
    "https": Scheme("aiohttp", "pip install aiohttp", writable=False, by_ranges=False),
    "memory": Scheme(),
}
"""The schemes of stores. file:// is missing because such a URL is a local path."""
LOCAL = ("file", "local")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


def is_url(path: object) -> bool:
    """Whether a path has the form scheme://..., with any scheme except pkg://."""
    return isinstance(path, str) and bool(_URL.match(path)) and not path.startswith("pkg://")


def is_in_store(path: object) -> bool:
    """Whether a path is a URL other than file://."""
    return is_url(path) and scheme_name(str(path)) not in LOCAL


def scheme_name(url: str) -> str:
    """The scheme of a URL, in lower case."""
    return url.partition("://")[0].lower()


def scheme_of(url: str) -> Scheme:
    """The requirements of a URL's scheme. The URL must have passed `check_url`."""
    return SCHEMES[scheme_name(url)]


def plain_path(path: str) -> str:
    """The local path of a file:// URL; other paths are returned unchanged."""
    if not is_url(path) or scheme_name(path) not in LOCAL:
        return path
    return unquote(path.partition("://")[2].removeprefix("localhost"))


def shown(path: Path) -> str:
    """The URL of which a `Path` was made, which lacks one of its slashes; else the path."""
    scheme, _, rest = str(path).partition(":/")
    return f"{scheme}://{rest}" if scheme in SCHEMES else str(path)


def local_folder(path: str | Path, where: str = "save_pretrained") -> Path:
    """The local folder to write, which may be given as a file:// URL or with a ~.

    Raises InputError, whose message begins with `where`, for other URLs, pkg:// paths and types.
    """
    given = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(given, str):
        raise InputError(f"{where}: found {path!r:.60}; accepted: a local folder")
    if is_in_store(given) or given.startswith("pkg://"):
        raise InputError(f"{where}: found '{given}'; accepted: a local folder")
    if is_url(given):
        check_url(given, where)
    return Path(os.path.expanduser(plain_path(given)))


def check_url(url: str, where: str, writes: bool = False) -> None:
    """Raise InputError, whose message begins with `where`, if the URL cannot be used.

    The scheme's package must be installed and, with `writes`, the scheme must allow writing. The
    store itself is not contacted.
    """
    name, _, rest = url.partition("://")
    if name.lower() in LOCAL:
        if not rest.removeprefix("localhost").startswith("/"):
            raise InputError(f"{where}: found '{url}'; accepted: file:///path, with three slashes")
        return
    scheme = SCHEMES.get(name.lower())
    if scheme is None:
        accepted = ", ".join(f"{each}://" for each in (*SCHEMES, "file"))
        raise InputError(f"{where}: found '{name}://'; accepted: {accepted}")
    if "@" in rest.partition("/")[0] and ":" in rest.partition("@")[0]:
        raise InputError(
            f"{where}: found a password in a {name}:// URL; accepted: {scheme.credentials}"
        )
    if not rest.strip("/") or not url.isprintable() or ".." in rest.split("/"):
        raise InputError(f"{where}: found '{url}'; accepted: {name}://place/folder, without ..")
    if not scheme.by_ranges and "?" in rest:
        accepted = f"{name}:// without a query, which may hold a secret; or a local copy"
        raise InputError(f"{where}: found a query in a {name}:// URL; accepted: {accepted}")
    if writes and not scheme.writable:
        accepted = ", ".join(f"{n}://" for n, each in SCHEMES.items() if each.writable)
        raise InputError(f"{where}: nothing can be written to {name}://; accepted: {accepted}")
    if scheme.package and importlib.util.find_spec(scheme.package) is None:
        needed = f"{name}:// needs the package {scheme.package}, which is not installed"
        raise InputError(f"{where}: {needed}; accepted: {scheme.install}")


def joined(url: str, *names: str) -> str:
    """The URL or path of a file or folder inside the folder `url`."""
    return "/".join((url.rstrip("/"), *names))
