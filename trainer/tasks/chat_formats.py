"""Chat formats: convert rows of messages, prompts with answers, or instructions to chats."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer import registry
from trainer.data.chat_rows import CHAT, EXTRA_COLUMNS, from_sharegpt, parsed, with_tool_calls
from trainer.data.rows import label_column, text_column
from trainer.errors import InputError, RowError

FORMATS = {
    "messages": ("messages",),
    "conversations": ("conversations",),
    "prompt": ("prompt", "completion"),
    "instruction": ("instruction", "output"),
}
"""Format -> its required columns. A format is named after the column by which it is recognized."""

Rows = Mapping[str, Sequence[Any]]
"""Rows as columns: name of a column -> its cells."""


def format_of(rows: Rows) -> str:
    """The format of the rows, a key of FORMATS. Raises InputError if no format fits."""
    kind = next((kind for kind in FORMATS if kind in rows), None)
    if kind is None:
        accepted = "; ".join(" and ".join(columns) for columns in FORMATS.values())
        raise InputError(
            f"recipe: no column to learn from, there are: {', '.join(rows)}; accepted: {accepted} "
            "(dataset.columns renames)"
        )
    return kind


def with_messages(rows: Rows, chat_format: str | None) -> Rows:
    """The rows, with a `messages` column that the chat format of a trusted package computes.

    Rows are returned unchanged without a `chat_format`.
    """
    if chat_format is None:
        return rows
    read = registry.find(registry.CHAT_FORMATS, chat_format, "recipe.format")
    return {"messages": read(rows), **{name: rows[name] for name in EXTRA_COLUMNS if name in rows}}


def chats_of(rows: Rows, kind: str) -> list[Any]:
    """Convert each row to a list of messages. Raises RowError for a row that is not valid."""
    if kind == "messages":
        return [with_tool_calls(chat, row) for row, chat in enumerate(_cells(rows, kind))]
    if kind == "conversations":
        return [from_sharegpt(chat, row) for row, chat in enumerate(_cells(rows, kind))]
    if kind == "prompt" and _has_message_lists(rows):
        return _joined(rows)
    return [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        for prompt, answer in zip(*prompts_and_answers(rows, kind), strict=True)
    ]


def prompt_sizes(rows: Rows, kind: str, chats: Sequence[Any]) -> list[int] | None:
    """The number of leading messages of each chat that are its prompt.

    Returns None unless prompts are lists of messages.
    """
    if kind != "prompt" or not _has_message_lists(rows):
        return None
    return [len(chat) - len(answer) for chat, answer in zip(chats, rows["completion"], strict=True)]


def prompts_and_answers(rows: Rows, kind: str) -> tuple[list[str], list[str]]:
    """The prompts and answers of rows as texts; an instruction's `input` is part of its prompt."""
    prompts, answers = (text_column(rows, name, "recipe") for name in FORMATS[kind])
    if kind == "instruction":
        inputs: Sequence[str | None] = rows.get("input") or [None] * len(prompts)
        prompts = [
            f"{text}\n\n{extra}" if extra else text
            for text, extra in zip(prompts, inputs, strict=True)
        ]
    return prompts, answers


def _cells(rows: Rows, name: str) -> list[Any]:
    """The conversations in a column, whose cells may be JSON texts."""
    found = label_column(rows, name, "recipe")
    return [parsed(cell, row, name, CHAT) for row, cell in enumerate(found)]


def _has_message_lists(rows: Rows) -> bool:
    """Whether any prompt or completion is a list of messages."""
    return any(isinstance(cell, list) for name in FORMATS["prompt"] for cell in rows.get(name, ()))


def _joined(rows: Rows) -> list[list[Any]]:
    """Join each prompt and completion, which are lists of messages, into one chat."""
    for name in FORMATS["prompt"]:
        for row, found in enumerate(label_column(rows, name, "recipe")):
            if not isinstance(found, list):
                accepted = "accepted: both texts, or both lists of messages"
                raise RowError(row, f"'{name}' is {found!r:.60}, and the other a list; {accepted}")
    return [[*p, *a] for p, a in zip(rows["prompt"], rows["completion"], strict=True)]
