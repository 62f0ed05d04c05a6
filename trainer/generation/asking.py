"""Asking: texts and conversations as the prompts that a model goes on with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trainer.errors import InputError, RowError
from trainer.tokenizer import Tokenizer
from trainer.tokenizer.chat import Message, chat_text, messages_of


@dataclass(frozen=True)
class Manner:
    """How a model is asked."""

    chat: bool | Literal["auto"] = "auto"
    """Whether a text is a user's message; auto: where there are a chat template or messages."""
    system: str | None = None
    """Unless empty, it precedes conversations that have no system message."""
    date: str | None = None
    """The day that templates which print today's are given; None: the present."""


def as_trained(
    chat: bool | Literal["auto"], system: str | None, recipe: Mapping[str, Any]
) -> Manner:
    """As the user says, else as a recipe's fields `chat` and `system`; on the day of its `date`."""
    if chat == "auto" and recipe.get("chat") is False:
        chat = False
    if system is None and chat is not False:
        system = recipe.get("system")
    return Manner(chat, system, recipe.get("date"))


def as_asked(
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[Message]],
    manner: Manner = Manner(),  # noqa: B008 - it is frozen
) -> Sequence[Any]:
    """The prompts as they are, or in ids as conversations that await an answer.

    Raises InputError for messages without a chat, RowError for those that nobody is to answer.
    """
    chat, system = manner.chat, manner.system
    plain = all(isinstance(prompt, str) for prompt in prompts)
    if not (tokenizer.chat_template is not None or not plain if chat == "auto" else chat):
        if system or not plain:
            found = "for a system message" if plain else "for messages"
            raise InputError(f"input.chat: found {str(chat).lower()} {found}; accepted: true")
        return prompts
    conversations = [_conversation(prompt, row, system) for row, prompt in enumerate(prompts)]
    return awaiting_ids(tokenizer, conversations, manner.date)


def awaiting_ids(
    tokenizer: Tokenizer, conversations: Sequence[Sequence[Message]], date: str | None
) -> list[list[int]]:
    """The ids of conversations up to where an answer begins, as on the day of `date`."""
    texts = chat_text(tokenizer, conversations, add_generation_prompt=True, today=date)
    return tokenizer(texts, add_special_tokens=False)["input_ids"]  # the template has them


def opening(system: str | None) -> list[dict[str, Any]]:
    """The messages that a conversation begins with."""
    return [{"role": "system", "content": system}] if system else []


def _conversation(
    prompt: str | Sequence[Message], row: int, system: str | None
) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [*opening(system), {"role": "user", "content": prompt}]
    messages = messages_of(prompt, row)
    if messages[-1]["role"] == "assistant":
        raise RowError(row, "messages: the last is an answer; accepted: one to be answered")
    has_own = messages[0]["role"] in ("system", "developer")
    return messages if has_own else [*opening(system), *messages]
