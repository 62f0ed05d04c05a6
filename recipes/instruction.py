"""Instruction tuning: chats, prompts with completions, or instructions with outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trainer import registry
from trainer.data import chat_rows
from trainer.errors import InputError
from trainer.tasks import chat_formats, learnt_texts
from trainer.tasks.chat_texts import chat_texts, check_chat_options
from trainer.tasks.recipe import Axis
from trainer.tasks.writing import Spans, WritingRecipe, last_learnt

if TYPE_CHECKING:
    from trainer.data.batch import OwnBatch, Samples
    from trainer.models.model import Model
    from trainer.tokenizer import Tokenizer
    from trainer.tokenizer.assistant_spans import Supervised

TRAIN_ON = ("assistant", "last", "all")


@dataclass(frozen=True)
class Instruction(WritingRecipe):
    """Learn to write the answers in chats.

    The columns determine the format: `messages` (a list of {role, content}), ShareGPT's
    `conversations` (of {from, value}), `prompt` and `completion` (two texts, or two lists of
    messages; the completion is trained on), or `instruction`, optionally `input`, and `output`.
    Rows may also have `tools` (a list, or JSON), `system` and `chat_template_kwargs` (variables of
    the template). A message is not a target if its `weight` (also `train`, `loss_mask` or
    `loss`) is 0.

    The tokenizer's chat template turns a chat into text. The tokens to train on are found by
    position in that text, so the end-of-turn token is trained on even if it is also the padding
    token.
    """

    train_on: Literal["assistant", "last", "all"] = "assistant"
    """What to train on: assistant (every answer), last (the last answer) or all (every token)."""
    max_length: int = 1024
    """Longer chats are cut to this many tokens, at their end."""
    chat: bool = True
    """Whether to use the chat template; if false, the text is the prompt, the answer and the
    end-of-text token.
    """
    system: str | None = None
    """A system message for the chats that have none."""
    date: str = "2024-07-26"
    """The date for templates that print the current date, so that runs are reproducible."""
    format: str | None = None
    """The name of a chat format of a trusted package; null: the columns determine the format."""
    neftune: float = 0.0
    """The alpha of NEFTune (such as 5), which adds noise to embeddings in training; 0: no noise."""
    slices: str | None = None
    """Column whose values split evaluations into slices with separate metrics, such as
    eval_<value>_loss.
    """
    evaluate_texts: bool = False
    """Whether evaluations also generate the last answer of each chat, for text metrics."""
    max_new_tokens: int = 256
    """The maximum length of a generated answer in tokens."""

    fields: ClassVar[Mapping[str, Axis]] = {"labels": "token"}
    takes_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.train_on not in TRAIN_ON:
            found = f"found '{self.train_on}'"
            raise InputError(f"recipe.train_on: {found}; accepted: {', '.join(TRAIN_ON)}")
        if self.max_length < 2:
            raise InputError(f"recipe.max_length: found {self.max_length}; accepted: 2 or more")
        check_chat_options(chat=self.chat, system=self.system, day=self.date)
        self.check_writing()
        if self.evaluate_texts and self.train_on == "all":
            found = "found true with recipe.train_on=all, which has no prompts"
            raise InputError(f"recipe.evaluate_texts: {found}; accepted: assistant, last")

    @property
    def prompt_options(self) -> Mapping[str, Any]:
        return {"chat": self.chat, "system": self.system, "date": self.date}

    @property
    def modules(self) -> tuple[str, ...]:
        if self.format is None:
            return ()
        entry = registry.locate(registry.CHAT_FORMATS, self.format)
        return () if entry is None else (entry.module,)

    def prepare(self, tokenizer: "Tokenizer") -> None:
        from trainer.tokenizer.chat import use_default_template

        if self.chat:
            use_default_template(tokenizer)
        self.remember(tokenizer)

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        from trainer.tokenizer.supervised_ids import regrouped, supervised_ids

        samples = self._texts(chat_formats.with_messages(rows, self.format), tokenizer)
        flat = [text for texts in samples for text in texts]
        sizes = [len(texts) for texts in samples]
        found = supervised_ids(tokenizer, flat, self.max_length, is_chat=self.chat)
        columns = found.by_sample(sizes)
        learnt_texts.refuse_unlearnt(columns["labels"], self.max_length)
        cut = [sum(each) for each in regrouped(found.num_truncated, sizes)]
        return {**columns, "num_truncated_tokens": cut}

    def doubt(self, samples: "Samples", model: "Model", tokenizer: "Tokenizer") -> str | None:
        return learnt_texts.unlearnt_end(samples, model, tokenizer)

    def answer_spans(self, batch: "OwnBatch") -> Spans:
        return last_learnt(batch, self.labels(batch) >= 0)

    def _texts(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> "list[list[Supervised]]":
        """The texts of each row, with the spans to train on."""
        kind = chat_formats.format_of(rows)
        chat_rows.refuse_unread(rows, ("history", *chat_rows.UNREAD))
        if self.chat:
            options = self.train_on, self.date, self.system, self.max_length
            return chat_texts(rows, kind, tokenizer, *options)
        end, whole = tokenizer.eos_token or "", self.train_on == "all"
        return learnt_texts.plain_texts(rows, kind, end=end, learn_prompts=whole)
