"""Chat: formats messages as text with the tokenizer's template, or with ChatML."""

import logging
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from trainer.errors import InputError, RowError, nearest
from trainer.tokenizer.control_tokens import control_tokens, marked
from trainer.tokenizer.templates import Rendering, Request, Spent, render
from trainer.tokenizer.vocabulary import Vocabulary

log = logging.getLogger("trainer")

Message = Mapping[str, Any]

CHATML = """\
{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}
{%- if message['role'] == 'assistant' and eos_token != '<|im_end|>' %}{{ eos_token }}{% endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""The default template: ChatML (OpenAI, 2023), with the eos token after each answer."""
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Keys for the reasoning of a message; the first one with a value is used."""
WRAPPERS = ("content", "tool_calls", "function")
"""Entries of a message from which null entries are removed, too."""
ARGUMENTS = ("add_generation_prompt", "chat_template", "continue_final_message", "conversation") + (
    "documents",
    "max_length",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "sanitize_control_tokens",
    "tokenize",
    "tokenizer_kwargs",
    "tools",
    "truncation",
)
"""The arguments of `apply_chat_template`, for suggestions in error messages."""
OPEN_END = "\x00the answer continues here "
"""A mark that is appended to the message to continue.

A template that trims messages removes the space at the end of the mark.
"""


def use_default_template(tokenizer: Vocabulary) -> None:
    """Set the default chat template if the tokenizer has none; it is saved with the tokenizer."""
    if tokenizer.chat_template is None:
        log.warning("tokenizer: has no chat template; ChatML is used, and saved with it")
        tokenizer.chat_template = CHATML


def chosen_template(
    tokenizer: Vocabulary, given: str | None = None, tools: Sequence[Any] | None = None
) -> str:
    """The template to use: `given` (Jinja, or a name), else the tokenizer's own.

    Of several templates, "tool_use" is chosen if it exists and there are tools, else "default".
    Raises InputError for an unknown name.
    """
    use_default_template(tokenizer)
    own = tokenizer.chat_template
    if isinstance(own, str):
        return given or own
    assert own is not None
    name = given or ("tool_use" if tools and "tool_use" in own else "default")
    if name in own:
        return own[name]
    if given is not None and "{" in given:
        return given
    raise InputError(
        f"chat_template: found '{name}'; accepted: {', '.join(own)}, or Jinja{nearest(name, own)}"
    )


def chat_text(
    tokenizer: Vocabulary, conversations: Sequence[Sequence[Message]], **options: Any
) -> list[str]:
    """The text of each conversation; the options are those of `rendered_chats`."""
    return [chat.text for chat in rendered_chats(tokenizer, conversations, **options)]


def rendered_chats(
    tokenizer: Vocabulary,
    conversations: Sequence[Sequence[Message]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    chat_template: str | None = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool | str = False,
    variables: Mapping[str, Any] = MappingProxyType({}),
    today: str | None = None,
    sanitized: bool = False,
) -> list[Rendering]:
    """Render each conversation; `Tokenizer.apply_chat_template` documents the options.

    `today` is the date for `render`. With `sanitized`, control tokens in messages are marked
    (`trainer.tokenizer.control_tokens`).
    """
    if add_generation_prompt and continue_final_message:
        raise InputError(
            "add_generation_prompt: found with continue_final_message; accepted: one of them"
        )
    plain = [messages_of(messages, row) for row, messages in enumerate(conversations)]
    template = chosen_template(tokenizer, chat_template, tools)
    _refuse_unread(template, variables)
    given = {"tools": tools, "documents": documents, **variables}
    if sanitized:
        tokens = control_tokens(tokenizer, template)
        plain, given = marked(plain, tokens), marked(given, tokens)
    if continue_final_message:
        field = "content" if continue_final_message is True else continue_final_message
        plain = [_open_ended(messages, row, field) for row, messages in enumerate(plain)]
    found = renderings(
        tokenizer,
        [[(messages, add_generation_prompt)] for messages in plain],
        template=template,
        variables=given,
        today=today,
    )
    chats = [only for (only,) in found]
    return (
        [Rendering(_cut_open(chat.text, row), []) for row, chat in enumerate(chats)]
        if continue_final_message
        else chats
    )


def renderings(
    tokenizer: Vocabulary,
    conversations: Sequence[Sequence[Request]],
    *,
    template: str,
    variables: Mapping[str, Any],
    today: str | None = None,
    spent: Spent | None = None,
) -> list[list[Rendering]]:
    """Render conversations as `render` does, with the special tokens as additional variables."""
    special = tokenizer.special_tokens_map
    return render(template, conversations, {**special, **variables}, today, spent)


def messages_of(found: object, row: int) -> list[dict[str, Any]]:
    """The messages of a conversation, without null entries, which templates would print as "None".

    The arguments of tool calls are unchanged and may contain nulls. Raises RowError if the
    conversation is empty or is not a list of messages.
    """
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise RowError(row, f"messages: found {found!r:.60}; accepted: a list of messages")
    if not found:
        raise RowError(row, "messages: empty; accepted: one message or more")
    for number, message in enumerate(found):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            accepted = "{role: ..., content: ...}"
            raise RowError(row, f"messages[{number}]: found {message!r:.60}; accepted: {accepted}")
    return [_with_reasoning(_without_nulls(message, depth=len(WRAPPERS))) for message in found]


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """A message with its reasoning under both keys that templates read, as in transformers."""
    found = next((message[name] for name in REASONING if message.get(name) is not None), None)
    if found is None:
        return message
    return {"thinking": found, **message, "reasoning_content": found}


def _without_nulls(found: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """A message, or a part of its content or tool calls, without null entries."""
    kept = {key: value for key, value in found.items() if value is not None}
    for key in WRAPPERS if depth else ():
        inner = kept.get(key)
        if isinstance(inner, Mapping):
            kept[key] = _without_nulls(inner, depth - 1)
        elif isinstance(inner, list | tuple):
            kept[key] = [
                _without_nulls(e, depth - 1) if isinstance(e, Mapping) else e for e in inner
            ]
    return kept


def _refuse_unread(template: str, variables: Mapping[str, Any]) -> None:
    """Raise InputError for a variable that the template does not read."""
    for name in variables:
        if not re.search(rf"\b{re.escape(name)}\b", template):
            hint = nearest(name, ARGUMENTS)
            accepted = f"an argument of the method, or a variable of the template{hint}"
            raise InputError(f"apply_chat_template: found {name}; accepted: {accepted}")


def _open_ended(messages: list[dict[str, Any]], row: int, field: str) -> list[dict[str, Any]]:
    """The messages, with the mark OPEN_END after the text in a field of the last message."""
    last = messages[-1]
    text: Any = last.get(field)
    parts = enumerate(text if _in_parts(text) else ())
    text_parts = [n for n, part in parts if isinstance(part.get("text"), str)]
    if isinstance(text, str):
        opened: Any = text + OPEN_END
    elif text_parts:
        opened = [*text]
        opened[text_parts[-1]] = {
            **text[text_parts[-1]],
            "text": text[text_parts[-1]]["text"] + OPEN_END,
        }
    else:
        found = f"messages[{len(messages) - 1}]: has no text to continue"
        raise RowError(row, f"{found}; accepted: {field}, a text")
    names = [name for name in REASONING if last.get(name) == text] if field in REASONING else []
    return [*messages[:-1], {**last, **dict.fromkeys((field, *names), opened)}]


def _in_parts(content: object) -> bool:
    return isinstance(content, list) and all(isinstance(part, Mapping) for part in content)


def _cut_open(text: str, row: int) -> str:
    """The text up to the mark OPEN_END; its end is trimmed if the template trims messages.

    Raises RowError if the template does not print the last message.
    """
    end = text.rfind(OPEN_END.rstrip())
    if end < 0:
        raise RowError(row, "chat_template: does not print the message that is to be continued")
    kept = text[:end] if text.startswith(OPEN_END, end) else text[:end].rstrip()
    return kept.replace(OPEN_END, "").replace(OPEN_END.rstrip(), "")
