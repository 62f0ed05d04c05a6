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
}
"""ShareGPT's names for who speaks, and the roles that templates know."""


@dataclass(frozen=True)
class Instruction(NextTokenRecipe):
    """Learn to answer.

    The columns tell the format: `messages` (a list of {role, content}), ShareGPT's `conversations`
    (of {from, value}), `prompt` and `completion` (two texts, or two lists of messages of which the
    completion is learnt), or `instruction`, perhaps `input`, and `output`. Beside them `tools` (a
    list, or JSON) and `system` are each row's own. The tokenizer's chat template makes text of it.
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
        _refuse_unread(rows, ("history",) if self.chat else ("history", "tools", "system"))
        if not self.chat:
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
        encoded = tokenizer(
            [each.text for each in texts],
            add_special_tokens=not self.chat and _only_in_front(tokenizer),
            return_offsets_mapping=True,
        )
        ids, labels, cut = [], [], []
        for text, row, offsets in zip(
            texts, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
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
        return [_parsed(chat, row, kind) for row, chat in enumerate(found)]
    if kind == "conversations":
        found = label_column(rows, "conversations", "recipe")
        return [_from_sharegpt(_parsed(chat, row, kind), row) for row, chat in enumerate(found)]
    if kind == "prompt" and _of_messages(rows):
        return _joined(rows)
    return [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        for prompt, answer in zip(*_prompts(rows, kind), strict=True)
    ]


def _parsed(chat: Any, row: int, kind: str) -> Any:
    """A chat, which may be a list or its JSON, as in a cell of a csv file."""
    if not isinstance(chat, str):
        return chat
    try:
        return json.loads(chat)
    except ValueError as error:
        raise RowError(row, f"{kind}: {error}; accepted: a list of messages, or its JSON") from None


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
        try:
            own = json.loads(tools) if isinstance(tools, str) and tools else tools
        except ValueError as error:
            raise RowError(row, f"tools: {error}; accepted: a list of tools, or its JSON") from None
        if own and not isinstance(own, list):
            raise RowError(row, f"tools: found {own!r:.60}; accepted: a list of tools, or its JSON")
        found.append(own or None)
    return found


def _refuse_unread(rows: Mapping[str, Sequence[Any]], columns: Sequence[str]) -> None:
    """Refuse what other trainers would make a part of the text."""
    for name in columns:
        for row, found in enumerate(rows.get(name, ())):
            if found:
                accepted = "accepted: as messages, or no such column (dataset.columns renames)"
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
        messages.append({"role": SPEAKERS[speaker], "content": content})
    return messages


def _role(message: Any) -> Any:
    return message.get("from", message.get("role")) if isinstance(message, Mapping) else None


def _only_in_front(tokenizer: "Tokenizer") -> bool:
    """Whether the tokenizer puts a special token before a text, and none after it."""
    ids = tokenizer("a")["input_ids"]
    return len(ids) > 1 and ids[0] == tokenizer.bos_token_id and ids[-1] != tokenizer.eos_token_id


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
