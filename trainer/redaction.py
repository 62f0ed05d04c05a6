"""Secrets: what counts as one, and texts, configs and results without them."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
REDACTED = "<redacted>"
MARK = "<redacted"
"""How every text begins that stands for a secret."""
INTERPOLATED = "TEMPERING_INTERPOLATED"
"""The variable that tells our own processes which variables a config has read."""
_WORDS = {"token", "secret", "password", "passwd", "passphrase", "credentials", "credential"}
_PARTS = ("apikey", "api_key", "access_key", "private_key", "password", "passwd", "secret")
"""What the name of a secret holds, however it is written: PGPASSWORD, AWS_SECRET_ACCESS_KEY."""
_VOCABULARY = re.compile(r"^(pad|eos|bos|unk|sep|cls|mask|image|audio)_token$", re.IGNORECASE)
_PATTERNS = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|\bsk-[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic
    r"|\b(?:gh[opsur]|github_pat|glpat|npm|pypi|dop_v1|shpat)[-_][A-Za-z0-9_-]{16,}"
    r"|\bxox[abeoprs]-[A-Za-z0-9-]{10,}"  # Slack
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS
    r"|\bAIza[A-Za-z0-9_-]{35}"  # Google
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*"  # a JSON web token
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
)
_BEARER = re.compile(r"\b(Bearer|Basic)(\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"\b([a-z][a-z0-9+.-]*://[^/\s:@]*:)[^/\s@]+(@)", re.IGNORECASE)
LEAST = 6
"""Characters of a variable's value that is looked for in longer texts."""


def redacted(value: Any, key: str = "") -> Any:
    """`value`, with every secret below it replaced by REDACTED.

    A secret is a text under a key that names one; a token of a known service, the password of a
    URL or what follows Bearer, anywhere; and the value of an environment variable that names one,
    or that the config has read (`${oc.env:NAME}`), also inside of a longer text.
    """
    if isinstance(value, Mapping):
        return {_text(k): redacted(v, str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(entry, key) for entry in value]
    if not isinstance(value, str) or not value:
        return value
    if names_secret(key) or value in environment_secrets():
        return REDACTED
    return redacted_text(value)


def redacted_text(text: str) -> str:
    """A text without the secrets that stand in it."""
    text = without_environment(text)
    text = _URL_PASSWORD.sub(rf"\1{REDACTED}\2", text)
    text = _BEARER.sub(rf"\1\2{REDACTED}", text)
    return _PATTERNS.sub(REDACTED, text)


def without_environment(value: T) -> T:
    """A text, or nested lists and mappings, without the values of secret environment variables.

    What a model or a row says is otherwise left as it is.
    """
    found = environment_secrets()
    return _replaced(value, found) if found else value


def redacted_override(override: str) -> str:
    """A `key=value` of the command line, without the value if that is a secret."""
    key, equals, value = override.partition("=")
    return f"{key}{equals}{redacted(value, key.rpartition('.')[2])}"


def names_secret(key: str) -> bool:
    """Whether a key's name says that its value is a secret; `pad_token` and its like are none."""
    key = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower()  # hubToken
    words = set(re.split(r"[^a-z0-9]+", key))
    named = bool(words & _WORDS) or any(part in key for part in _PARTS)
    return named and not _VOCABULARY.match(key)


def note_interpolated(name: str) -> None:
    """A config has read this environment variable: from now on its value is a secret."""
    names = os.environ.get(INTERPOLATED, "").split(",")
    if name not in names and re.fullmatch(r"\w+", name):
        os.environ[INTERPOLATED] = ",".join(filter(None, [*names, name]))


def environment_secrets() -> dict[str, str]:
    """The values to look for, the longest first, and the name of the variable of each."""
    read = set(os.environ.get(INTERPOLATED, "").split(","))
    values = {
        value: name
        for name, value in os.environ.items()
        if (names_secret(name.lower()) and len(value) >= 8)
        or (name in read and len(value) >= LEAST and not _is_plain(value))
    }
    return dict(sorted(values.items(), key=lambda pair: (-len(pair[0]), pair)))


def _is_plain(value: str) -> bool:
    """A number, or a place on this machine, which runs are repeated with."""
    if re.fullmatch(r"[0-9.]+", value):
        return True
    return value.startswith(("/", "~", "./")) and Path(value).expanduser().exists()


def _replaced(value: Any, found: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for secret, name in found.items():  # the name tells two of them apart: labels must differ
            value = value.replace(secret, f"{MARK} {name}>")
        return value
    if isinstance(value, Mapping):
        return {_replaced(k, found): _replaced(v, found) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replaced(entry, found) for entry in value]
    return value


def _text(key: Any) -> Any:
    return redacted_text(key) if isinstance(key, str) else key
