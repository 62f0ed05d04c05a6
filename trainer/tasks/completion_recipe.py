"""CompletionRecipe: a base for recipes that read prompts with completions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.data.chat_rows import WEIGHTS, refuse_unread, tools_of, variables_of, with_system
from trainer.errors import InputError, RowError
from trainer.tasks.recipe import Recipe

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from trainer.data.batch import Batch
    from trainer.tokenizer import Tokenizer
    from trainer.tokenizer.assistant_spans import Supervised

UNREAD = (*WEIGHTS, "functions", "documents", "images", "image", "videos", "video", "audios")
"""Columns that other trainers read. This recipe refuses them, since it would ignore them."""
TEMPLATE_COLUMNS = ("tools", "system", "chat_template_kwargs")
"""Columns that only a chat template can read."""


@dataclass(frozen=True)
class Encoded:
    """The prompt and a completion of each of N rows, encoded as one sequence or several."""

    input_ids: list[list[list[int]]]
    labels: list[list[list[int]]]
    """Like `input_ids`, with -100 outside of the completion."""
    num_truncated: list[int]


@dataclass(frozen=True)
class CompletionRecipe(Recipe):
    """Prompts and completions, formatted with the tokenizer's chat template or as plain texts."""

    max_length: int = 1024
    """The maximum number of tokens of a prompt with its completion; longer ones are cut at the end.
    """
    chat: bool = True
    """Whether to use the chat template; false: join the prompt, the completion and the end-of-text
    token."""
    system: str | None = None
    """A system message for chats that have none."""
    date: str = "2024-07-26"
    """The date that chat templates print instead of today's, so that a run can be repeated."""
    slices: str | None = None
    """Column whose values split evaluations into slices with separate metrics, such as
    eval_<value>_loss.
    """

    read_columns: ClassVar[tuple[str, ...]] = ("prompt", "chosen", "rejected")
    """The columns that contain texts or messages."""

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise InputError(f"recipe.max_length: found {self.max_length}; accepted: 2 or more")
        if self.system is not None and not self.chat:
            accepted = "accepted: recipe.chat=true, or recipe.system=null"
            raise InputError(f"recipe.system: found a message with recipe.chat=false; {accepted}")
        try:
            date.fromisoformat(self.date)
        except ValueError:
            raise InputError(f"recipe.date: found '{self.date}'; accepted: 2024-07-26") from None

    @property
    def has_classes(self) -> bool:
        return False

    @property
    def prompt_options(self) -> Mapping[str, Any]:
        return {"chat": self.chat, "system": self.system, "date": self.date}

    def prepare(self, tokenizer: "Tokenizer") -> None:
        from trainer.tokenizer.chat import use_default_template

        if self.chat:
            use_default_template(tokenizer)

    def texts(self, rows: "Dataset") -> Iterable[str]:
        from trainer.data.preference_rows import plain_texts

        return plain_texts(rows, [name for name in self.read_columns if name in rows.column_names])

    def encoded(
        self,
        rows: Mapping[str, Sequence[Any]],
        names: Sequence[str],
        tokenizer: "Tokenizer",
        *,
        whole: bool = False,
    ) -> list[Encoded]:
        """The completions in the columns `names` with their prompts, one `Encoded` for each column.

        With `whole`, every conversation is one sequence, even if a template rewrites its history.
        Raises RowError for a row that cannot be used, and for equal completions.
        """
        refuse_unread(rows, UNREAD)
        if not self.chat:
            refuse_unread(rows, TEMPLATE_COLUMNS)
        texts = self._chats(rows, names, tokenizer, whole) if self.chat else self._plain(
            rows, names, tokenizer
        )  # fmt: skip
        found = [self._tokens(each, tokenizer) for each in texts]
        for name, each in zip(names, found, strict=True):
            self._check_learnt(each, name)
        _refuse_equal(found, names, self.max_length)
        return found

    def trained_on(self, batch: "Batch") -> "Tensor | None":
        from trainer.tasks.losses import IGNORED

        if "labels" not in batch:
            return None
        positions: Tensor = batch.inputs()["position_ids"]
        return (batch["labels"] != IGNORED) & (positions > 0)

    def _chats(
        self,
        rows: Mapping[str, Sequence[Any]],
        names: Sequence[str],
        tokenizer: "Tokenizer",
        whole: bool,
    ) -> "list[list[list[Supervised]]]":
        from trainer.data.preference_rows import completed_chats
        from trainer.tokenizer.assistant_spans import supervised_texts

        found = []
        for chats in completed_chats(rows, names):
            systems = rows.get("system") or [None] * len(chats)
            messages = [
                with_system(chat.messages, system, self.system, row)
                for row, (chat, system) in enumerate(zip(chats, systems, strict=True))
            ]
            sizes = [
                len(complete) - len(chat.messages) + chat.prompt_size
                for complete, chat in zip(messages, chats, strict=True)
            ]
            found.append(
                supervised_texts(
                    tokenizer,
                    messages,
                    "all" if whole else "assistant",
                    self.date,
                    tools=tools_of(rows),
                    prompts=sizes,
                    variables=variables_of(rows),
                    max_length=self.max_length,
                )
            )
        return found

    def _plain(
        self, rows: Mapping[str, Sequence[Any]], names: Sequence[str], tokenizer: "Tokenizer"
    ) -> "list[list[list[Supervised]]]":
        from trainer.data.preference_rows import completed_texts
        from trainer.tokenizer.assistant_spans import Supervised

        end = tokenizer.eos_token or ""
        return [
            [
                [Supervised(each.text + end, [(each.prompt_size, len(each.text + end))])]
                for each in column
            ]
            for column in completed_texts(rows, names)
        ]

    def _tokens(self, texts: "list[list[Supervised]]", tokenizer: "Tokenizer") -> Encoded:
        from trainer.tokenizer.supervised_ids import regrouped, supervised_ids

        flat = [text for of_row in texts for text in of_row]
        sizes = [len(of_row) for of_row in texts]
        found = supervised_ids(tokenizer, flat, self.max_length, is_chat=self.chat)
        cut = [sum(each) for each in regrouped(found.num_truncated, sizes)]
        columns = found.by_sample(sizes)
        return Encoded(columns["input_ids"], columns["labels"], cut)

    def _check_learnt(self, found: Encoded, name: str) -> None:
        from trainer.tokenizer.supervised_ids import has_trained_token

        for row, labels in enumerate(found.labels):
            if not has_trained_token(labels):
                place = f"no token of '{name}' is in the first {self.max_length} tokens"
                accepted = "a longer recipe.max_length, or dataset.bad_rows=drop"
                raise RowError(row, f"{place}; accepted: {accepted}")


def joined(
    parts: Sequence[Encoded], roles: Sequence[Sequence[int]], *, labelled: bool = True
) -> dict[str, list[Any]]:
    """Columns for `Recipe.features`: the sequences of all parts of each row, with their roles."""
    columns: dict[str, list[Any]] = {"input_ids": [], "roles": [], "num_truncated_tokens": []}
    if labelled:
        columns["labels"] = []
    for row in range(len(parts[0].input_ids)):
        columns["input_ids"].append([ids for part in parts for ids in part.input_ids[row]])
        columns["roles"].append(
            [
                of_part[row]
                for part, of_part in zip(parts, roles, strict=True)
                for _ in part.input_ids[row]
            ]
        )
        columns["num_truncated_tokens"].append(sum(part.num_truncated[row] for part in parts))
        if labelled:
            columns["labels"].append([ids for part in parts for ids in part.labels[row]])
    return columns


def _refuse_equal(found: Sequence[Encoded], names: Sequence[str], max_length: int) -> None:
    """Raise RowError if two completions of a row have the same tokens."""
    if list(names) != ["chosen", "rejected"]:
        return
    pairs = zip(found[0].input_ids, found[1].input_ids, strict=True)
    for row, (chosen, rejected) in enumerate(pairs):
        if chosen == rejected:
            cut = f" in their first {max_length} tokens" * bool(found[0].num_truncated[row])
            accepted = "accepted: two different completions"
            raise RowError(row, f"'chosen' and 'rejected' are equal{cut}; {accepted}")
