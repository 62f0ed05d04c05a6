"""Chat rows: reads messages, tools and template variables in any of the usual formats."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.errors import RowError

CHAT = "a list of messages"
EXTRA_COLUMNS = ("tools", "system", "chat_template_kwargs")
"""Columns that a row of any format may have besides its messages."""
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_call": "assistant",
}
"""ShareGPT's speaker names -> the roles of templates."""
WEIGHTS = ("weight", "loss_mask", "train", "loss")
"""Keys of a message's loss weight. Columns with these names may hold only 1 and empty cells."""
UNREAD = (
    *(*WEIGHTS, "functions", "documents", "chosen", "rejected"),
    *("images", "image", "videos", "video", "audios", "audio"),
)
"""Columns that other libraries read. Values in them are refused, since they would be ignored."""
SHAREGPT = ("from", "value", "role", "content")
"""The keys of a turn that become the role and content of a message; other keys are kept."""
RESERVED = ("messages", "tools", "documents", "add_generation_prompt")
"""Variables of a template that a row's chat_template_kwargs must not set."""


def tools_of(rows: Mapping[str, Sequence[Any]]) -> list[Any] | None:
    """The tools of each row (None for a row without tools); None without a column `tools`."""
    if "tools" not in rows:
        return None
    found = []
    for row, tools in enumerate(rows["tools"]):
        tools = parsed(tools, row, "tools", "a list of tools")
        if tools and not isinstance(tools, list):
            accepted = "accepted: a list of tools, or its JSON"
            raise RowError(row, f"tools: found {tools!r:.60}; {accepted}")
        found.append(tools or None)
    return found


def variables_of(rows: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]] | None:
    """The template variables of each row; None without a column `chat_template_kwargs`."""
    if "chat_template_kwargs" not in rows:
        return None
    found = []
    for row, given in enumerate(rows["chat_template_kwargs"]):
        values = parsed(given, row, "chat_template_kwargs", "a mapping of variables") or {}
        if not isinstance(values, Mapping) or (wrong := [n for n in values if n in RESERVED]):
            shown = f"{values!r:.60}" if not isinstance(values, Mapping) else wrong[0]
            accepted = "a mapping of the template's own variables, or its JSON"
            raise RowError(row, f"chat_template_kwargs: found {shown}; accepted: {accepted}")
        found.append({name: value for name, value in values.items() if value is not None})
    return found


def parsed(found: object, row: int, name: str, accepted: str) -> Any:
    """The value of a cell, parsed if it is a text. An empty text is returned unchanged.

    Raises RowError for a text that is not JSON.
    """
    if not isinstance(found, str) or not found:
        return found
    try:
        return json.loads(found)
    except (ValueError, RecursionError) as error:
        raise RowError(row, f"{name}: {error}; accepted: {accepted}, or its JSON") from None


def refuse_unread(rows: Mapping[str, Sequence[Any]], columns: Sequence[str]) -> None:
    """Raise RowError for a row with a value in one of these columns, which would be ignored."""
    for name in columns:
        for row, found in enumerate(rows.get(name, ())):
            if found not in (None, [], {}, "", *((1, True) if name in WEIGHTS else ())):
                accepted = "accepted: its content as messages, or another name (dataset.columns)"
                if name in WEIGHTS:
                    accepted = f"accepted: '{name}' in each message, 0 or 1"
                raise RowError(row, f"'{name}' is not read with these rows; {accepted}")


def from_sharegpt(chat: object, row: int) -> Any:
    """A chat of ShareGPT ({from, value}) as messages ({role, content}).

    Raises RowError for an unknown speaker and for an invalid function call.
    """
    if not isinstance(chat, list):
        accepted = "accepted: a list of {from, value}, or its JSON"
        raise RowError(row, f"conversations: found {chat!r:.60}; {accepted}")
    messages = []
    for number, turn in enumerate(chat):
        speaker = role_of(turn)
        if not isinstance(speaker, str) or speaker not in SPEAKERS:
            accepted = ", ".join(SPEAKERS)
            raise RowError(row, f"conversations[{number}]: from '{speaker}'; accepted: {accepted}")
        content = turn.get("value", turn.get("content"))
        more = {name: value for name, value in turn.items() if name not in SHAREGPT}
        if speaker == "function_call":
            calls = parsed(content, row, f"conversations[{number}]: function_call", "a call")
            content, more["tool_calls"] = None, _tool_calls(calls, row, f"conversations[{number}]")
        messages.append({**more, "role": SPEAKERS[speaker], "content": content})
    return with_tool_calls(messages, row)


def with_tool_calls(chat: object, row: int) -> Any:
    """The chat with `function_call` converted to `tool_calls`, and the role `function` to `tool`.

    Anything other than a list of messages is returned unchanged; the template's checks refuse it.
    """
    if not isinstance(chat, list) or not all(isinstance(message, Mapping) for message in chat):
        return chat
    messages = []
    for number, message in enumerate(chat):
        if message.get("function_call") is not None:
            where, message = f"messages[{number}]", dict(message)
            if message.get("tool_calls"):
                raise RowError(row, f"{where}: found both function_call and tool_calls")
            message["tool_calls"] = _tool_calls(message.pop("function_call"), row, where)
        if message.get("role") == "function":
            message = {**message, "role": "tool"}
        messages.append(message)
    return messages


def with_system(chat: object, of_row: str | None, default: str | None, row: int) -> Any:
    """The chat with a system message at its start: the chat's, else `of_row`, else `default`.

    `of_row` is the row's column `system`. Raises RowError if both the chat and its row have a
    system message.
    """
    if not isinstance(chat, list) or not chat:
        return chat
    if role_of(chat[0]) not in ("system", "developer"):
        content = of_row or default
        return chat if content is None else [{"role": "system", "content": content}, *chat]
    if of_row:
        raise RowError(
            row, "system: given together with a system message in the chat; accepted: one of them"
        )
    return chat


def _tool_calls(calls: object, row: int, where: str) -> list[dict[str, Any]]:
    """The `tool_calls` of a message, from one function call or a list of them."""
    calls = calls if isinstance(calls, list) else [calls]
    for call in calls:
        if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
            accepted = '{"name": ..., "arguments": ...}'
            raise RowError(row, f"{where}: function_call: found {call!r:.60}; accepted: {accepted}")
    return [{"type": "function", "function": call} for call in calls]


def role_of(message: object) -> object:
    """The speaker of a message or a ShareGPT turn; None for anything else."""
    return message.get("from", message.get("role")) if isinstance(message, Mapping) else None
