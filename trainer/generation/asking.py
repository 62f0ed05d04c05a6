"""Asking: texts and conversations as the prompts that a model goes on with."""

from collections.abc import Sequence
from typing import Any, Literal

from trainer.errors import InputError, RowError
from trainer.tokenizer import Tokenizer
from trainer.tokenizer.chat import Message, messages_of


def as_asked(
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[Message]],
    chat: bool | Literal["auto"] = "auto",
    system: str | None = None,
) -> Sequence[Any]:
    """The prompts as they are, or in ids as conversations that await an answer.

    A text is a user's message if `chat`; auto: where the tokenizer has a chat template, or there
    are messages. `system`, unless empty, precedes conversations that have no system message.
    Raises InputError for messages without a chat, RowError for those that nobody is to answer.
    """
    plain = all(isinstance(prompt, str) for prompt in prompts)
    if not (tokenizer.chat_template is not None or not plain if chat == "auto" else chat):
        if system or not plain:
            found = "for a system message" if plain else "for messages"
            raise InputError(f"input.chat: found {str(chat).lower()} {found}; accepted: true")
        return prompts
    conversations = [_conversation(prompt, row, system) for row, prompt in enumerate(prompts)]
    return tokenizer.apply_chat_template(
        conversations, add_generation_prompt=True, return_dict=False
    )


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
