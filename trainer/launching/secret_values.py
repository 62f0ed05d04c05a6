"""Secrets in a config: what counts as one, and the config without them."""

import os
import re
from collections.abc import Mapping
from typing import Any

REDACTED = "<redacted>"
_WORDS = {"token", "secret", "password", "passwd", "credentials", "apikey"}
_VOCABULARY = re.compile(r"^(pad|eos|bos|unk|sep|cls|mask|image|audio)_token$", re.IGNORECASE)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")


def redacted(value: Any, key: str = "") -> Any:
    """`value`, with every secret below it replaced by REDACTED.

    A secret is a text under a key that names one, a hub token anywhere, or what an environment
    variable that names one holds (`${oc.env:MY_TOKEN}`).
    """
    if isinstance(value, Mapping):
        return {k: redacted(v, str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [redacted(entry, key) for entry in value]
    if not isinstance(value, str) or not value:
        return value
    if names_secret(key) or value in _environment_secrets():
        return REDACTED
    return _HUB_TOKEN.sub(REDACTED, value)


def redacted_override(override: str) -> str:
    """A `key=value` of the command line, without the value if that is a secret."""
    key, equals, value = override.partition("=")
    return f"{key}{equals}{redacted(value, key.rpartition('.')[2])}"


def names_secret(key: str) -> bool:
    """Whether a key's name says that its value is a secret; `pad_token` and its like are none."""
    key = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower()  # hubToken
    words = set(re.split(r"[^a-z0-9]+", key))
    return not _VOCABULARY.match(key) and (bool(words & _WORDS) or "api_key" in key)


def _environment_secrets() -> set[str]:
    return {v for k, v in os.environ.items() if names_secret(k.lower()) and len(v) >= 8}
