"""Local copies of files in stores: where they are, and messages that show their URLs instead."""

import logging
import os
import re
from pathlib import Path

URL_FILE = "url.txt"
"""The file in the folder of a local copy that contains the URL of the original."""
COPY = re.compile(r"/(inputs|runs)/[0-9a-f]{16}/")
"""A part of the path of every local copy."""


def stage_folder() -> Path:
    """The local folder for copies of files in stores.

    It is the first of these that is set: $TEMPERING_STAGE, $TEMPERING_CACHE/stores,
    $XDG_CACHE_HOME/tempering/stores, and otherwise ~/.cache/tempering/stores.
    """
    if chosen := os.environ.get("TEMPERING_STAGE"):
        return Path(os.path.expanduser(chosen))
    if cache := os.environ.get("TEMPERING_CACHE"):
        return Path(os.path.expanduser(cache)) / "stores"
    user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(user_cache)) / "tempering" / "stores"


def with_urls(text: str) -> str:
    """The text, with the path of each local copy replaced by the URL of its original.

    The user typed the URL and does not know the path of the copy.
    """
    if not COPY.search(text):
        return text  # avoids the disk access below
    stage = stage_folder()
    for start in dict.fromkeys((str(stage.resolve()), str(stage.absolute()), str(stage))):
        if start in text:
            copies = rf"({re.escape(start)}/(?:inputs|runs)/[0-9a-f]{{16}})(/copy)?/"
            text = re.sub(rf"{copies}(?=(.*))", _as_url, text, flags=re.DOTALL)
    return text


LOGGERS = ("trainer", "trainer.fresh", "trainer.pads", "trainer.lengths")
"""The names of all loggers of the package."""


class _NamesUrls(logging.Filter):
    """Changes log records so that they name URLs, whichever handlers the user has configured."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = record.getMessage()
        except Exception:
            return True  # the handler reports a message that does not fit its arguments
        if (changed := with_urls(text)) != text:
            record.msg, record.args = changed, None
        return True


def name_urls_in_logs() -> None:
    """Let the logs of the package name the URL of a file in a store, as its errors do."""
    for name in LOGGERS:
        found = logging.getLogger(name)
        if not any(isinstance(each, _NamesUrls) for each in found.filters):
            found.addFilter(_NamesUrls())


def _as_url(found: re.Match[str]) -> str:
    """The URL of the original's parent folder, which replaces the folder of the copy."""
    try:
        url = (Path(found[1]) / URL_FILE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return found[0]
    above, slash, name = url.rpartition("/")
    return f"{above}{slash}" if found[3].startswith(name) else found[0]
