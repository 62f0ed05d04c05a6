"""Chat texts: converts chats to text with the chat template, and finds the spans to train on."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

from trainer.data import chat_rows
from trainer.errors import InputError
from trainer.tasks import chat_formats

if TYPE_CHECKING:
    from trainer.tokenizer import Tokenizer
    from trainer.tokenizer.assistant_spans import Supervised


def check_chat_options(*, chat: bool, system: str | None, day: str) -> None:
    """Raise InputError for a system message without chats, and for an invalid date."""
    if system is not None and not chat:
        accepted = "accepted: recipe.chat=true, or recipe.system=null"
        raise InputError(f"recipe.system: found a message with recipe.chat=false; {accepted}")
    try:
        date.fromisoformat(day)
    except ValueError:
        raise InputError(f"recipe.date: found '{day}'; accepted: 2024-07-26") from None


def chat_texts(
    rows: Mapping[str, Sequence[Any]],
    kind: str,
    tokenizer: "Tokenizer",
    train_on: Literal["assistant", "last", "all"],
    day: str,
    system: str | None,
    max_length: int,
) -> "list[list[Supervised]]":
    """The texts of each row, whose columns have the chat format `kind`, with the spans to train on.

    `system` is the system message for chats that have none; `day` is the date that templates print.
    """
    from trainer.tokenizer.assistant_spans import supervised_texts

    chats = chat_formats.chats_of(rows, kind)
    own_messages = rows.get("system") or [None] * len(chats)
    chats = [
        chat_rows.with_system(chat, text, system, row)
        for row, (chat, text) in enumerate(zip(chats, own_messages, strict=True))
    ]
    return supervised_texts(
        tokenizer,
        chats,
        train_on,
        day,
        tools=chat_rows.tools_of(rows),
        prompts=chat_formats.prompt_sizes(rows, kind, chats),
        variables=chat_rows.variables_of(rows),
        max_length=max_length,
    )
