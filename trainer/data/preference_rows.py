"""Preference rows: reads prompts with preferred and rejected completions."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from trainer.data.chat_rows import from_sharegpt, parsed, role_of, with_tool_calls
from trainer.data.row_locations import copy_locations
from trainer.data.rows import label_column, text_column
from trainer.errors import InputError, RowError

if TYPE_CHECKING:
    from datasets import Dataset

Rows = Mapping[str, Sequence[Any]]
Messages = list[Any]
PROMPT = "prompt"
MISMATCHED = "mismatched"
"""The column that `with_mismatched` adds."""
ACCEPTED = "accepted: a text, or a list of messages"
CHAT_STARTS = ("[{", "[ {")
"""The prefixes by which a text is recognized as a JSON list of messages."""


@dataclass(frozen=True)
class CompletedChat:
    """A conversation whose last messages complete a prompt."""

    messages: Messages
    prompt_size: int
    """The number of messages in the prompt."""


@dataclass(frozen=True)
class CompletedText:
    """A text that ends with the completion of a prompt."""

    text: str
    prompt_size: int
    """The number of characters in the prompt."""


def completed_chats(rows: Rows, names: Sequence[str]) -> list[list[CompletedChat]]:
    """The conversations in the columns `names`, one list for each column.

    A cell is a text (one answer), the messages of the answer, or a whole conversation. The column
    `prompt` holds texts or messages. Without it, the prompt consists of the messages with which all
    conversations of a row begin; for a single column, of those before the answer. Raises RowError
    for an empty completion, and for a prompt that is not the beginning of its conversation.
    """
    cells = {name: label_column(rows, name, "recipe") for name in names}
    prompts = rows.get(PROMPT) or [None] * len(cells[names[0]])
    found: list[list[CompletedChat]] = [[] for _ in names]
    for row, given in enumerate(prompts):
        chats = [_messages(cells[name][row], name, row) for name in names]
        prompt = None if given is None else _prompt(given, row)
        for column, own in zip(found, _joined(prompt, given, chats, names, row), strict=True):
            column.append(own)
    return found


def completed_texts(rows: Rows, names: Sequence[str]) -> list[list[CompletedText]]:
    """Prompts with the completions in the columns `names`, one list for each column.

    Without a column `prompt`, the prompt is the longest common prefix of a row's texts, up to the
    last white space in it. Raises RowError for an empty completion.
    """
    columns = {name: text_column(rows, name, "recipe") for name in names}
    prompts = text_column(rows, PROMPT, "recipe") if PROMPT in rows or len(names) == 1 else None
    found: list[list[CompletedText]] = [[] for _ in names]
    for row, texts in enumerate(zip(*columns.values(), strict=True)):
        start = _common_text(texts) if prompts is None else 0
        prompt = texts[0][:start] if prompts is None else prompts[row]
        for column, name, text in zip(found, names, texts, strict=True):
            _refuse_empty(text[start:], name, row)
            column.append(CompletedText(prompt + text[start:], len(prompt)))
    return found


def with_mismatched(rows: "Dataset", where: str) -> "Dataset":
    """Add a column with the completion of the previous row.

    The first row gets the completion of the last row. Raises InputError for a single row.
    """
    import pyarrow as pa
    from datasets import Dataset, DatasetInfo

    if len(rows) < 2:
        accepted = "accepted: two or more, since prompts are compared with other rows' completions"
        raise InputError(f"{where}: found one row; {accepted}")
    if "completion" not in rows.column_names:
        return rows  # `features` reports the missing column
    table = rows.with_format("arrow")[:]
    own = table["completion"]
    last = len(rows) - 1
    before = pa.chunked_array([*own.slice(last).chunks, *own.slice(0, last).chunks], own.type)
    kinds = {**rows.features, MISMATCHED: rows.features["completion"]}
    info = DatasetInfo(features=type(rows.features)(kinds))
    # by default datasets would hash a pickle of the whole table
    fingerprint = secrets.token_hex(8)
    wider = Dataset(table.append_column(MISMATCHED, before), info=info, fingerprint=fingerprint)
    return copy_locations(wider, rows)


def mismatched(rows: Rows) -> Rows:
    """The rows of `with_mismatched`, with the previous row's completion in place of their own."""
    cells = rows["completion"]
    prompts = list(rows.get(PROMPT) or [None] * len(cells))
    others = list(rows[MISMATCHED])
    for row, (cell, other) in enumerate(zip(cells, others, strict=True)):
        if _is_chat(cell):
            own = _messages(cell, "completion", row)
            start = _answer_start(own)
            prompts[row] = own[:start] if start else prompts[row]
        if _is_chat(other):
            answered = _messages(other, "completion", row)
            others[row] = answered[_answer_start(answered) :]
    named = {} if prompts.count(None) == len(prompts) else {PROMPT: prompts}
    return {**rows, **named, "completion": others}


def plain_texts(rows: "Dataset", names: Sequence[str]) -> Iterator[str]:
    """The texts in columns of texts or messages, to train a tokenizer on."""
    for name in names:
        for cell in rows.select_columns(name).with_format(None)[:][name]:
            messages = cell if isinstance(cell, list) else [{"content": cell}]
            for message in messages:
                content = message.get("content", message.get("value"))
                if isinstance(content, str):
                    yield content


def _is_chat(cell: object) -> bool:
    """Whether a cell holds messages, as a list or as JSON text, and not the text of an answer."""
    is_json = isinstance(cell, str) and cell.lstrip().startswith(CHAT_STARTS)
    return is_json or isinstance(cell, list)


def _messages(cell: object, name: str, row: int) -> Messages:
    """The messages in a cell: an answer, which may be a text, or a whole conversation."""
    if isinstance(cell, str):
        if not _is_chat(cell):
            _refuse_empty(cell, name, row)
            return [{"role": "assistant", "content": cell}]
        cell = parsed(cell, row, name, "a text, a list of messages")
    if not isinstance(cell, list):
        raise RowError(row, f"'{name}' is {cell!r:.60} ({type(cell).__name__}); {ACCEPTED}")
    if not cell:
        raise RowError(row, f"'{name}' is empty; {ACCEPTED}")
    is_sharegpt = isinstance(cell[0], Mapping) and cell[0].get("from") is not None
    found = from_sharegpt(cell, row) if is_sharegpt else with_tool_calls(cell, row)
    if role_of(found[-1]) != "assistant":
        accepted = "accepted: an answer (role assistant) at the end"
        raise RowError(row, f"'{name}' ends with the role {role_of(found[-1])}; {accepted}")
    if not found[-1].get("tool_calls"):
        _refuse_empty(str(found[-1].get("content") or ""), name, row)
    return list(found)


def _prompt(given: object, row: int) -> Messages:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise RowError(row, f"'{PROMPT}' is {given!r:.60}; {ACCEPTED}")
    is_sharegpt = isinstance(given[0], Mapping) and given[0].get("from") is not None
    return list(from_sharegpt(given, row) if is_sharegpt else with_tool_calls(given, row))


def _joined(
    prompt: Messages | None, given: object, chats: list[Messages], names: Sequence[str], row: int
) -> list[CompletedChat]:
    """The row's conversations, each starting with the prompt."""
    if all(role_of(chat[0]) == "assistant" for chat in chats):
        if prompt is None:
            accepted = "accepted: a column 'prompt', or whole conversations in the others"
            raise InputError(f"recipe: no prompt for '{names[0]}'; {accepted}")
        return [CompletedChat([*prompt, *chat], len(prompt)) for chat in chats]
    start = _common_start(chats)
    if prompt is not None:
        for chat, name in zip(chats, names, strict=True):
            _check_prompt(prompt, given, chat[:start], name, row)
    return [CompletedChat(chat, start) for chat in chats]


def _common_start(chats: Sequence[Messages]) -> int:
    """The number of leading messages that conversations share, without their final answers."""
    most = min(_answer_start(chat) if len(chats) == 1 else len(chat) - 1 for chat in chats)
    alike = takewhile(lambda index: all(c[index] == chats[0][index] for c in chats), range(most))
    return sum(1 for _ in alike)


def _answer_start(chat: Messages) -> int:
    """The index of the first of the answers at the end of a conversation."""
    answers = takewhile(lambda message: role_of(message) == "assistant", reversed(chat))
    return len(chat) - sum(1 for _ in answers)


def _check_prompt(prompt: Messages, given: object, start: Messages, name: str, row: int) -> None:
    """Raise RowError if a conversation does not begin with its prompt.

    A prompt given as text must be the last message before the answer; other messages may precede
    it.
    """
    compared = start[-1:] if isinstance(given, str) else start
    actual = [(role_of(message), message.get("content")) for message in compared]
    if actual != [(role_of(message), message.get("content")) for message in prompt]:
        accepted = "accepted: the same messages, or the completion alone"
        raise RowError(row, f"'{PROMPT}' is not the beginning of '{name}'; {accepted}")


def _common_text(texts: Sequence[str]) -> int:
    """The number of leading characters that texts share, up to the last white space."""
    shortest = min(map(len, texts))
    alike = takewhile(lambda index: len({text[index] for text in texts}) == 1, range(shortest))
    common = texts[0][: sum(1 for _ in alike)]
    return (
        len(common) if not common or common[-1].isspace() else len(common) - len(common.split()[-1])
    )


def _refuse_empty(text: str, name: str, row: int) -> None:
    if not text.strip():
        raise RowError(row, f"'{name}' is empty; every row needs a completion")
