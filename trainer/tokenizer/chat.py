"""Chats: messages to text through the tokenizer's template, or through ChatML."""

import logging
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trainer.errors import InputError, RowError, nearest
from trainer.tokenizer.control_tokens import control_tokens, marked
from trainer.tokenizer.templates import Rendering, Request, render

if TYPE_CHECKING:
    from trainer.tokenizer import Tokenizer

log = logging.getLogger("trainer")

Message = Mapping[str, Any]

CHATML = """\
{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}
{%- if message['role'] == 'assistant' and eos_token != '<|im_end|>' %}{{ eos_token }}{% endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""The default: ChatML (OpenAI, 2023), with the token that ends a generation after each answer."""
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of a message's reasoning: the first that a message has counts."""
WRAPPERS = ("content", "tool_calls", "function")
"""Entries of a message that hold more of it, and are no values of their own."""
OPEN_END = "\x00the answer goes on here "
"""After a message that is to be continued; its last space tells whether the template trims."""


def use_default_template(tokenizer: "Tokenizer") -> None:
    """Give a tokenizer that has no chat template the default one, which is then saved with it."""
    if tokenizer.chat_template is None:
        log.warning("tokenizer: has no chat template; ChatML is used, and saved with it")
        tokenizer.chat_template = CHATML


def chosen_template(
    tokenizer: "Tokenizer", given: str | None = None, tools: Sequence[Any] | None = None
) -> str:
    """The template to use: `given` (Jinja, or the name of one of several), or the tokenizer's own.

    Of several it is "tool_use" where there are tools, else "default".
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
    tokenizer: "Tokenizer", conversations: Sequence[Sequence[Message]], **options: Any
) -> list[str]:
    """The text of each conversation; options as of `rendered_chats`."""
    return [chat.text for chat in rendered_chats(tokenizer, conversations, **options)]


def rendered_chats(
    tokenizer: "Tokenizer",
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
    """The text of each conversation, as `Tokenizer.apply_chat_template` describes it.

    `today` is as in `render`. With `sanitized` control tokens that a message contains are marked
    (`trainer.tokenizer.control_tokens`).
    """
    if add_generation_prompt and continue_final_message:
        raise InputError(
            "add_generation_prompt: found beside continue_final_message; accepted: one of them"
        )
    plain = [messages_of(messages, row) for row, messages in enumerate(conversations)]
    template = chosen_template(tokenizer, chat_template, tools)
    _tell_unread(template, variables)
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
    tokenizer: "Tokenizer",
    conversations: Sequence[Sequence[Request]],
    *,
    template: str,
    variables: Mapping[str, Any],
    today: str | None = None,
) -> list[list[Rendering]]:
    """As `render`, with the special tokens among the variables."""
    special = tokenizer.special_tokens_map
    return render(template, conversations, {**special, **variables}, today)


def messages_of(found: Any, row: int) -> list[dict[str, Any]]:
    """A conversation's messages without their null entries: templates would print "None".

    The arguments of tool calls stay as they are, nulls included. Raises RowError where the
    conversation is empty or no list of messages.
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
    """A message with its reasoning under every name that templates read, as in transformers."""
    found = next((message[name] for name in REASONING if message.get(name) is not None), None)
    if found is None:
        return message
    return {"thinking": found, **message, "reasoning_content": found}


def _without_nulls(found: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """A message, or a part of its content or of its tool calls, without its null entries."""
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


def _tell_unread(template: str, variables: Mapping[str, Any]) -> None:
    """Log the variables that a template does not read."""
    unread = [name for name in variables if not re.search(rf"\b{re.escape(name)}\b", template)]
    if unread:
        log.warning("chat_template: does not read %s, which changes nothing", ", ".join(unread))


def _open_ended(messages: list[dict[str, Any]], row: int, field: str) -> list[dict[str, Any]]:
    """Messages whose last one has the mark OPEN_END after the text of a field."""
    last = messages[-1]
    text: Any = last.get(field)
    places = [n for n, part in enumerate(text) if "text" in part] if _in_parts(text) else []
    if isinstance(text, str):
        opened: Any = text + OPEN_END
    elif places:
        opened = [*text]
        opened[places[-1]] = {**text[places[-1]], "text": text[places[-1]]["text"] + OPEN_END}
    else:
        found = f"messages[{len(messages) - 1}]: has no text to continue"
        raise RowError(row, f"{found}; accepted: {field}, a text")
    names = [name for name in REASONING if last.get(name) == text] if field in REASONING else []
    return [*messages[:-1], {**last, **dict.fromkeys((field, *names), opened)}]


def _in_parts(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(part, Mapping) for part in content)


def _cut_open(text: str, row: int) -> str:
    """The text up to where its last message's content ends; trimmed where the template trims."""
    end = text.rfind(OPEN_END.rstrip())
    if end < 0:
        raise RowError(row, "chat_template: does not print the message that is to be continued")
    kept = text[:end] if text.startswith(OPEN_END, end) else text[:end].rstrip()
    return kept.replace(OPEN_END, "").replace(OPEN_END.rstrip(), "")
