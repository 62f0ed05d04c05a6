"""Prompts: turns texts and conversations into prompts for generation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trainer.errors import InputError, RowError
from trainer.tokenizer import Tokenizer
from trainer.tokenizer.chat import Message, chat_text, messages_of


@dataclass(frozen=True)
class PromptStyle:
    """The settings with which prompts are formatted."""

    chat: bool | Literal["auto"] = "auto"
    """Whether a text is a user's message. auto: true if the tokenizer has a chat template, or if
    prompts are lists of messages.
    """
    system: str | None = None
    """The system message for conversations that have none; empty or None for no message."""
    date: str | None = None
    """The date for templates that print one; None means today."""


def style_as_trained(
    chat: bool | Literal["auto"], system: str | None, recipe: Mapping[str, Any]
) -> PromptStyle:
    """The style that the user chose; `chat`, `system` and `date` default to the recipe's."""
    if chat == "auto" and recipe.get("chat") is False:
        chat = False
    if system is None and chat is not False:
        system = recipe.get("system")
    return PromptStyle(chat, system, recipe.get("date"))


def format_prompts(
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[Message]],
    style: PromptStyle = PromptStyle(),  # noqa: B008 - it is frozen
) -> Sequence[Any]:
    """The prompts unchanged or, for chats, the ids of conversations up to the start of an answer.

    Raises InputError for messages if `style.chat` is false, and RowError for a conversation that
    already ends with an answer.
    """
    chat, system = style.chat, style.system
    only_texts = all(isinstance(prompt, str) for prompt in prompts)
    chat_by_default = tokenizer.chat_template is not None or not only_texts
    if not (chat_by_default if chat == "auto" else chat):
        if system or not only_texts:
            found = "for a system message" if only_texts else "for messages"
            raise InputError(f"input.chat: found {str(chat).lower()} {found}; accepted: true")
        return prompts
    conversations = [_conversation(prompt, row, system) for row, prompt in enumerate(prompts)]
    return encode_conversations(tokenizer, conversations, style.date)


def encode_conversations(
    tokenizer: Tokenizer, conversations: Sequence[Sequence[Message]], date: str | None
) -> list[list[int]]:
    """The ids of conversations up to the start of an answer. `date` is as in `PromptStyle`."""
    texts = chat_text(tokenizer, conversations, add_generation_prompt=True, today=date)
    # the template has already written the special tokens
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def initial_messages(system: str | None) -> list[dict[str, Any]]:
    """The first messages of a conversation: the system message, if there is one."""
    return [{"role": "system", "content": system}] if system else []


def _conversation(
    prompt: str | Sequence[Message], row: int, system: str | None
) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [*initial_messages(system), {"role": "user", "content": prompt}]
    messages = messages_of(prompt, row)
    if messages[-1]["role"] == "assistant":
        raise RowError(row, "messages: the last one is an answer; accepted: a message to answer")
    has_own = messages[0]["role"] in ("system", "developer")
    return messages if has_own else [*initial_messages(system), *messages]
