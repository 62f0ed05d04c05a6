"""Transcript: a conversation as one text, in which each line is a message after `Q:` or `A:`."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.data.rows import text_column
from trainer.errors import RowError

ROLES = {"Q": "user", "A": "assistant"}


def read(rows: Mapping[str, Sequence[Any]]) -> list[list[dict[str, str]]]:
    """The messages of each row's `transcript`. Raises RowError for a line that is not a message."""
    texts = text_column(rows, "transcript", "recipe.format")
    return [_messages(text, row) for row, text in enumerate(texts)]


def _messages(text: str, row: int) -> list[dict[str, str]]:
    messages = []
    for line in filter(None, text.splitlines()):
        speaker, _, content = line.partition(":")
        if speaker not in ROLES:
            raise RowError(row, f"found the line {line!r:.40}; accepted: Q: ..., A: ...")
        messages.append({"role": ROLES[speaker], "content": content.strip()})
    return messages
