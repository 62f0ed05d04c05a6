"""Instruction tuning: chats, prompts with completions, or instructions with outputs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.data.rows import label_column, text_column
from trainer.errors import InputError, RowError
from trainer.next_token import NextTokenRecipe
from trainer.recipe import Axis

if TYPE_CHECKING:
    from trainer.data.batch import Samples
    from trainer.tokenizer import Tokenizer
    from trainer.tokenizer.turns import Supervised

FORMATS = {
    "messages": ("messages",),
    "conversations": ("conversations",),
    "prompt": ("prompt", "completion"),
    "instruction": ("instruction", "output"),
}
"""What tells a format, and the columns that it must have."""
CHAT = "a list of messages"
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
"""ShareGPT's names for who speaks, and the roles that templates know."""
WEIGHTS = ("weight", "loss_mask", "train", "loss")
"""Names of a weight, which messages may have and rows may not."""
UNREAD = (
    *(*WEIGHTS, "functions", "documents", "chosen", "rejected"),
    *("images", "image", "videos", "video", "audios", "audio"),
)
"""Columns that other trainers make a part of the loss or of the text."""
SHAREGPT = ("from", "value", "role", "content")
"""What a turn of ShareGPT says itself; its other entries are the message's."""
RESERVED = ("messages", "tools", "documents", "add_generation_prompt")
"""Variables of a template that a row's chat_template_kwargs may not have."""


@dataclass(frozen=True)
class Instruction(NextTokenRecipe):
    """Learn to answer.

    The columns tell the format: `messages` (a list of {role, content}), ShareGPT's `conversations`
    (of {from, value}), `prompt` and `completion` (two texts, or two lists of messages of which the
    completion is learnt), or `instruction`, perhaps `input`, and `output`. Beside them `tools` (a
    list, or JSON), `system` and `chat_template_kwargs` (variables of the template) are each row's
    own. A message whose `weight` (also `train`, `loss_mask` or `loss`) is 0 is not learnt. The
    tokenizer's chat template makes text of it.
    What is learnt is told by position, so that the end of a turn is learnt even where its token is
    also the pad.
    """

    train_on: str = "assistant"
    """assistant: every answer; last: the last one; all: every token."""
    max_length: int = 1024
    """Longer chats are cut to so many tokens, at their end."""
    chat: bool = True
    """false: prompt and answer as they are, without the template, and the end-of-text token."""
    system: str | None = None
    """A system message for the chats that have none."""
    date: str = "2024-07-26"
    """The day that templates which print today's are given, so that a run can be repeated."""

    fields: ClassVar[Mapping[str, Axis]] = {"labels": "token"}

    def __post_init__(self) -> None:
        if self.train_on not in (accepted := ("assistant", "last", "all")):
            found = f"found '{self.train_on}'"
            raise InputError(f"recipe.train_on: {found}; accepted: {', '.join(accepted)}")
        if self.max_length < 2:
            raise InputError(f"recipe.max_length: found {self.max_length}; accepted: 2 or more")
        if self.system is not None and not self.chat:
            raise InputError(
                "recipe.system: found beside recipe.chat=false; accepted: recipe.chat=true, or "
                "recipe.system=null"
            )
        try:
            date.fromisoformat(self.date)
        except ValueError:
            raise InputError(f"recipe.date: found '{self.date}'; accepted: 2024-07-26") from None

    def prepare(self, tokenizer: "Tokenizer") -> None:
        from trainer.tokenizer.chat import use_default_template

        if self.chat:
            use_default_template(tokenizer)

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        samples = self._texts(rows, tokenizer)
        flat = [text for texts in samples for text in texts]
        ids, labels, cut = self._tokens(flat, tokenizer)
        sizes = [len(texts) for texts in samples]
        columns: dict[str, list[Any]] = {
            "input_ids": _regrouped(ids, sizes),
            "labels": _regrouped(labels, sizes),
            "num_truncated_tokens": [sum(each) for each in _regrouped(cut, sizes)],
        }
        for row, each in enumerate(columns["labels"]):
            self._check_learnt(each, row)
        return columns

    def doubt(self, samples: "Samples", model: Any, tokenizer: "Tokenizer") -> str | None:
        import numpy as np

        from trainer.generation.ends import end_ids

        labels = getattr(samples, "fields", {}).get("labels")
        ends = end_ids(model, tokenizer)
        if labels is None or np.isin(labels, ends).any():
            return None
        known = [number for number in ends if number < len(tokenizer)]
        names = ", ".join(tokenizer.convert_ids_to_tokens(known)) or "there is none"
        return (
            f"no end token ({names}) is learnt, so the model will not stop; accepted: a chat "
            "template that writes one after each answer, and answers that are not all cut off"
        )

    def _texts(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> "list[list[Supervised]]":
        """What to learn of each row: texts, and which of their characters are answers."""
        from trainer.tokenizer.turns import supervised_texts

        kind = next((kind for kind in FORMATS if kind in rows), None)
        if kind is None:
            accepted = "; ".join(" and ".join(columns) for columns in FORMATS.values())
            found = ", ".join(rows)
            raise InputError(
                f"recipe: no column to learn from, there are: {found}; accepted: {accepted} "
                "(dataset.columns renames)"
            )
        _refuse_unread(rows, ("history", *UNREAD))
        if not self.chat:
            _refuse_unread(rows, ("tools", "system", "chat_template_kwargs"))
            return self._plain_texts(rows, kind, tokenizer)
        chats = _chats(rows, kind)
        systems = rows.get("system") or [None] * len(chats)
        chats = [
            self._with_system(chat, own, row)
            for row, (chat, own) in enumerate(zip(chats, systems, strict=True))
        ]
        return supervised_texts(
            tokenizer,
            chats,
            self.train_on,  # type: ignore[arg-type]
            self.date,
            tools=_tools(rows),
            prompts=_prompt_sizes(rows, chats) if kind == "prompt" else None,
            variables=_variables(rows),
            max_length=self.max_length,
        )

    def _with_system(self, chat: Any, own: str | None, row: int) -> Any:
        """A chat that has no system message with the row's own, or with the recipe's."""
        if not isinstance(chat, list) or not chat:
            return chat
        if _role(chat[0]) not in ("system", "developer"):
            content = own or self.system
            return chat if content is None else [{"role": "system", "content": content}, *chat]
        if own:
            raise RowError(
                row, "system: beside a system message in the chat; accepted: one of them"
            )
        return chat

    def _plain_texts(
        self, rows: Mapping[str, Sequence[Any]], kind: str, tokenizer: "Tokenizer"
    ) -> "list[list[Supervised]]":
        from trainer.tokenizer.turns import Supervised

        if kind not in ("prompt", "instruction"):
            accepted = "prompt and completion, or instruction and output"
            raise InputError(f"recipe.chat: false, but the rows are chats; accepted: {accepted}")
        prompts, answers = _prompts(rows, kind)
        end = tokenizer.eos_token or ""
        found = []
        for prompt, answer in zip(prompts, answers, strict=True):
            text = f"{prompt}{answer}{end}"
            start = 0 if self.train_on == "all" else len(prompt)
            found.append([Supervised(text, [(start, len(text))])])
        return found

    def _tokens(
        self, texts: "Sequence[Supervised]", tokenizer: "Tokenizer"
    ) -> tuple[list[list[int]], list[list[int]], list[int]]:
        """Ids, labels and the number of tokens cut off, of each text."""
        from trainer.tokenizer.special_tokens import ids_in_front

        encoded = tokenizer(
            [each.text for each in texts], add_special_tokens=False, return_offsets_mapping=True
        )
        front = [] if self.chat else ids_in_front(tokenizer)
        ids, labels, cut = [], [], []
        for text, row, offsets in zip(
            texts, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            row, offsets = [*front, *row], [(0, 0)] * len(front) + offsets
            learnt = _learnt(text.spans, offsets[: self.max_length])
            ids.append(row[: self.max_length])
            labels.append(
                [number if yes else -100 for number, yes in zip(row, learnt, strict=False)]
            )
            cut.append(max(0, len(row) - self.max_length))
        return ids, labels, cut

    def _check_learnt(self, labels: list[list[int]], row: int) -> None:
        """Refuse a row that teaches nothing; of a sequence's first token nothing is learnt."""
        if not any(label != -100 for sequence in labels for label in sequence[1:]):
            raise RowError(
                row,
                f"nothing to learn from in its first {self.max_length} tokens; accepted: a longer "
                "recipe.max_length, or dataset.bad_rows=drop",
            )


def _chats(rows: Mapping[str, Sequence[Any]], kind: str) -> list[Any]:
    """Each row as a list of messages."""
    if kind == "messages":
        found = label_column(rows, "messages", "recipe")
        chats = (_parsed(chat, row, kind, CHAT) for row, chat in enumerate(found))
        return [_with_tool_calls(chat, row) for row, chat in enumerate(chats)]
    if kind == "conversations":
        found = label_column(rows, "conversations", "recipe")
        chats = (_parsed(chat, row, kind, CHAT) for row, chat in enumerate(found))
        return [_from_sharegpt(chat, row) for row, chat in enumerate(chats)]
    if kind == "prompt" and _of_messages(rows):
        return _joined(rows)
    return [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        for prompt, answer in zip(*_prompts(rows, kind), strict=True)
    ]


def _of_messages(rows: Mapping[str, Sequence[Any]]) -> bool:
    """Whether prompts and completions are lists of messages, or one of the two."""
    return any(isinstance(e, list) for name in FORMATS["prompt"] for e in rows.get(name, ()))


def _prompt_sizes(rows: Mapping[str, Sequence[Any]], chats: Sequence[Any]) -> list[int] | None:
    """How many messages of each chat are its prompt; None where prompts are texts."""
    if not _of_messages(rows):
        return None
    return [len(chat) - len(own) for chat, own in zip(chats, rows["completion"], strict=True)]


def _joined(rows: Mapping[str, Sequence[Any]]) -> list[list[Any]]:
    """Prompts and completions that are lists of messages, each pair as one chat."""
    for name in FORMATS["prompt"]:
        for row, found in enumerate(label_column(rows, name, "recipe")):
            if not isinstance(found, list):
                accepted = "accepted: both texts, or both lists of messages"
                raise RowError(row, f"'{name}' is {found!r:.60} beside a list; {accepted}")
    return [[*p, *a] for p, a in zip(rows["prompt"], rows["completion"], strict=True)]


def _tools(rows: Mapping[str, Sequence[Any]]) -> list[Any] | None:
    """The tools of each row, which may be JSON; None where it has none."""
    if "tools" not in rows:
        return None
    found = []
    for row, tools in enumerate(rows["tools"]):
        own = _parsed(tools, row, "tools", "a list of tools")
        if own and not isinstance(own, list):
            raise RowError(row, f"tools: found {own!r:.60}; accepted: a list of tools, or its JSON")
        found.append(own or None)
    return found


def _variables(rows: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]] | None:
    """The template's variables of each row, which may be JSON; None where it has none."""
    if "chat_template_kwargs" not in rows:
        return None
    found = []
    for row, given in enumerate(rows["chat_template_kwargs"]):
        own = _parsed(given, row, "chat_template_kwargs", "a mapping of variables") or {}
        if not isinstance(own, Mapping) or (wrong := [name for name in own if name in RESERVED]):
            shown = f"{own!r:.60}" if not isinstance(own, Mapping) else wrong[0]
            accepted = "a mapping of the template's own variables, or its JSON"
            raise RowError(row, f"chat_template_kwargs: found {shown}; accepted: {accepted}")
        found.append({name: value for name, value in own.items() if value is not None})
    return found


def _parsed(found: Any, row: int, name: str, accepted: str) -> Any:
    """A value that a row may have as JSON."""
    if not isinstance(found, str) or not found:
        return found
    try:
        return json.loads(found)
    except ValueError as error:
        raise RowError(row, f"{name}: {error}; accepted: {accepted}, or its JSON") from None


def _refuse_unread(rows: Mapping[str, Sequence[Any]], columns: Sequence[str]) -> None:
    """Refuse what other trainers would make a part of the text."""
    for name in columns:
        for row, found in enumerate(rows.get(name, ())):
            if found not in (None, [], {}, "", *((1, True) if name in WEIGHTS else ())):
                accepted = "accepted: as messages, or no such column (dataset.columns renames)"
                if name in WEIGHTS:
                    accepted = f"accepted: '{name}' in each message, 0 or 1"
                raise RowError(row, f"'{name}' is not read with these rows; {accepted}")


def _prompts(rows: Mapping[str, Sequence[Any]], kind: str) -> tuple[list[str], list[str]]:
    """What is asked in each row, and what is to be answered."""
    asked, answered = (text_column(rows, name, "recipe") for name in FORMATS[kind])
    if kind == "instruction":
        more = rows.get("input") or [None] * len(asked)
        asked = [
            f"{text}\n\n{extra}" if extra else text for text, extra in zip(asked, more, strict=True)
        ]
    return asked, answered


def _from_sharegpt(chat: Any, row: int) -> list[dict[str, Any]]:
    messages = []
    for number, turn in enumerate(chat):
        speaker = _role(turn)
        if speaker not in SPEAKERS:
            accepted = ", ".join(SPEAKERS)
            raise RowError(row, f"conversations[{number}]: from '{speaker}'; accepted: {accepted}")
        content = turn.get("value", turn.get("content"))
        more = {name: value for name, value in turn.items() if name not in SHAREGPT}
        if speaker == "function_call":
            calls = _parsed(content, row, f"conversations[{number}]: function_call", "a call")
            content, more["tool_calls"] = None, _tool_calls(calls, row, f"conversations[{number}]")
        messages.append({**more, "role": SPEAKERS[speaker], "content": content})
    return _with_tool_calls(messages, row)


def _with_tool_calls(chat: Any, row: int) -> Any:
    """A chat without the older names of calls (function_call) and of their results (function)."""
    if not isinstance(chat, list) or not all(isinstance(message, Mapping) for message in chat):
        return chat
    messages = []
    for number, message in enumerate(chat):
        if message.get("function_call") is not None:
            where, message = f"messages[{number}]", dict(message)
            if message.get("tool_calls"):
                raise RowError(row, f"{where}: found function_call beside tool_calls")
            message["tool_calls"] = _tool_calls(message.pop("function_call"), row, where)
        if message.get("role") == "function":
            message = {**message, "role": "tool"}
        messages.append(message)
    return messages


def _tool_calls(calls: Any, row: int, where: str) -> list[dict[str, Any]]:
    """One call, or several, as messages have them today."""
    calls = calls if isinstance(calls, list) else [calls]
    for call in calls:
        if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
            accepted = '{"name": ..., "arguments": ...}'
            raise RowError(row, f"{where}: function_call: found {call!r:.60}; accepted: {accepted}")
    return [{"type": "function", "function": call} for call in calls]


def _role(message: Any) -> Any:
    return message.get("from", message.get("role")) if isinstance(message, Mapping) else None


def _learnt(spans: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]]) -> list[bool]:
    """Whether each token has a character in one of the spans, which are in order."""
    import numpy as np

    places = np.array(offsets).reshape(-1, 2)
    learnt = np.zeros(len(places), dtype=bool)
    for start, stop in spans:
        learnt |= (places[:, 0] < stop) & (places[:, 1] > start)
    return learnt.tolist()


def _regrouped(column: list[Any], sizes: Sequence[int]) -> list[list[Any]]:
    """The entries of each sample, which has `sizes` of them."""
    entries = iter(column)
    return [[next(entries) for _ in range(size)] for size in sizes]
