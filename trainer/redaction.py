"""Redaction: finds the secrets in configs, logs and results, and replaces them."""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
REDACTED = "<redacted>"
MARK = "<redacted"
"""The beginning of every text that replaces a secret."""
INTERPOLATED = "TEMPERING_INTERPOLATED"
"""An environment variable that lists the environment variables that a config has read."""
_WORDS = {"token", "secret", "password", "passwd", "passphrase", "credentials", "credential"}
"""A key that contains one of these words, such as `hub_token`, names a secret."""
_PARTS = ("apikey", "api_key", "access_key", "private_key", "password", "passwd", "secret")
"""A key that contains one of these substrings, such as PGPASSWORD, names a secret, too."""
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
"""The minimum number of characters in a variable's value that is searched for in texts."""


def redacted(value: object, key: str = "") -> Any:
    """`value`, with every secret in it replaced by a text that begins with MARK.

    Secrets are:
    - a text whose key is the name of a secret, such as `hub_token`;
    - a token of a known service, the password in a URL, and the word after `Bearer` or `Basic`,
      anywhere in a text;
    - the value of an environment variable that has the name of a secret or that the config has
      read (`${oc.env:NAME}`), anywhere in a text.
    """
    return _redacted(value, key, environment_secrets())


def redacted_text(text: str) -> str:
    """A text without the secrets in it."""
    return _redacted_text(text, environment_secrets())


def _redacted(value: object, key: str, known: Mapping[str, str]) -> object:
    if isinstance(value, Mapping):
        return {
            _redacted_text(k, known) if isinstance(k, str) else k: _redacted(v, str(k), known)
            for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_redacted(entry, key, known) for entry in value]
    if not isinstance(value, str) or not value:
        return value
    if names_secret(key) or value in known:
        return REDACTED
    return _redacted_text(value, known)


def _redacted_text(text: str, known: Mapping[str, str]) -> str:
    text = _replaced(text, known)
    text = _URL_PASSWORD.sub(rf"\1{REDACTED}\2", text)
    text = _BEARER.sub(rf"\1\2{REDACTED}", text)
    return _PATTERNS.sub(REDACTED, text)


def without_environment(value: T) -> T:
    """A text, or nested lists and mappings, without the values of secret environment variables.

    Nothing else is replaced, since texts of models and rows may look like tokens of a service.
    """
    found = environment_secrets()
    return _replaced(value, found) if found else value


def redacted_override(override: str) -> str:
    """A `key=value` of the command line, with the secrets in its value replaced."""
    key, equals, value = override.partition("=")
    return f"{key}{equals}{redacted(value, key.rpartition('.')[2])}"


@lru_cache(maxsize=4096)
def names_secret(key: str) -> bool:
    """Whether a key has the name of a secret; `pad_token` and similar keys do not."""
    key = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower()  # hubToken
    words = set(re.split(r"[^a-z0-9]+", key))
    named = bool(words & _WORDS) or any(part in key for part in _PARTS)
    return named and not _VOCABULARY.match(key)


def note_interpolated(name: str) -> None:
    """Record that a config has read this environment variable: its value counts as a secret."""
    names = os.environ.get(INTERPOLATED, "").split(",")
    if name not in names and re.fullmatch(r"\w+", name):
        os.environ[INTERPOLATED] = ",".join(filter(None, [*names, name]))


def environment_secrets() -> dict[str, str]:
    """Secret value -> the name of its variable, the longest value first."""
    read = set(os.environ.get(INTERPOLATED, "").split(","))
    values = {
        value: name
        for name, value in os.environ.items()
        if (names_secret(name.lower()) and len(value) >= 8)
        or (name in read and len(value) >= LEAST and not _is_plain(value))
    }
    return dict(sorted(values.items(), key=lambda pair: (-len(pair[0]), pair)))


def _is_plain(value: str) -> bool:
    """Whether a value is a number or an existing path, which running a saved config needs."""
    if re.fullmatch(r"[0-9.]+", value):
        return True
    return value.startswith(("/", "~", "./")) and Path(os.path.expanduser(value)).exists()


def _replaced(value: object, found: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for secret, name in found.items():  # the name keeps redacted labels distinct
            value = value.replace(secret, f"{MARK} {name}>")
        return value
    if isinstance(value, Mapping):
        return {_replaced(k, found): _replaced(v, found) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replaced(entry, found) for entry in value]
    return value
