"""WritingRecipe: a base for recipes whose evaluations may generate a text for each sample."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.errors import InputError
from trainer.models.outputs import Outputs
from trainer.tasks.next_token import NextTokenRecipe
from trainer.tasks.recipe import Axis
from trainer.tasks.token_prediction import TokenPrediction

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainer.data.batch import Batch, FlatBatch, OwnBatch
    from trainer.data.sample_rows import SampleRows
    from trainer.tasks.columns import Columns
    from trainer.tasks.comparison import Comparison
    from trainer.tokenizer import Tokenizer

Spans = Sequence[tuple[int, int, int]]
"""(start of the prompt, start of the answer, end of the answer) per sample, as token indices."""


class WritingRecipe(NextTokenRecipe):
    """Predict every next token; with `evaluate_texts`, evaluations also generate texts greedily.

    Subclasses define the options, and the prompt and the answer of a sample.
    """

    evaluate_texts: bool
    max_new_tokens: int

    predicted: ClassVar[Mapping[str, Axis]] = {
        **TokenPrediction.predicted,
        "written": "sample",
        "wanted": "token",
    }

    def answer_spans(self, batch: "FlatBatch") -> Spans:
        """(start of the prompt, start of the answer, end of the answer) of each sample."""
        raise AssertionError(f"{type(self).__name__} has no answers")

    def check_writing(self) -> None:
        """Raise InputError for invalid options of generated texts."""
        if self.max_new_tokens < 1:
            found = f"found {self.max_new_tokens}"
            raise InputError(f"recipe.max_new_tokens: {found}; accepted: 1 or more")

    @property
    def compares(self) -> str | None:
        return "texts" if self.evaluate_texts else None

    def remember(self, tokenizer: "Tokenizer") -> None:
        """Store the tokenizer, which decodes generated texts."""
        vars(self)["_tokenizer"] = tokenizer

    def evaluated(self, model: "nn.Module", outputs: Outputs, batch: "Batch") -> Outputs:
        if self.evaluate_texts:
            outputs.written, outputs.wanted = self._generated(model, batch)
        return outputs

    def predictions(self, outputs: Outputs, batch: "Batch") -> dict[str, "Tensor"]:
        found = super().predictions(outputs, batch)
        if not self.evaluate_texts:
            return found
        return {**found, "written": outputs.written, "wanted": outputs.wanted}

    def comparison(self, columns: "Columns", rows: "SampleRows") -> "Comparison | None":
        from trainer.tasks.comparison import Comparison

        if "written" not in columns:
            return None
        return Comparison(
            "texts", self._decoded(columns, "written"), self._decoded(columns, "wanted")
        )

    def answers(self, columns: "Columns", rows: "SampleRows") -> list[dict[str, Any]]:
        found = super().answers(columns, rows)
        if "written" in columns:
            pairs = zip(
                self._decoded(columns, "written"), self._decoded(columns, "wanted"), strict=True
            )
            for answer, (text, wanted) in zip(found, pairs, strict=True):
                answer |= {"prediction": text, "reference": wanted}
        return found

    def _generated(self, model: Any, batch: "OwnBatch") -> "tuple[Tensor, Tensor]":
        """The generated tokens [N, max_new_tokens] and the reference tokens [T], padded with -1."""
        import torch

        from trainer.generation.settings import GenerationSettings
        from trainer.generation.stop_tokens import stop_token_ids
        from trainer.generation.token_ids import generate_ids
        from trainer.models.sharded import is_sharded

        assert not is_sharded(model), "refused by check_sharding"
        spans, ids = self.answer_spans(batch), batch.input_ids.tolist()
        settings = GenerationSettings(max_new_tokens=self.max_new_tokens)
        ends = stop_token_ids(model, vars(self)["_tokenizer"])
        prompts = [ids[first:start] for first, start, _ in spans]
        written = torch.full((len(prompts), self.max_new_tokens), -1)
        generated = generate_ids(model, prompts, settings, ends)
        for row, found_ids in zip(written, generated, strict=True):
            row[: len(found_ids)] = torch.tensor(found_ids)
        wanted = torch.full((len(ids),), -1)
        for _, start, end in spans:
            wanted[start:end] = torch.tensor(ids[start:end])
        device = batch.input_ids.device
        return written.to(device), wanted.to(device)

    def _decoded(self, columns: "Columns", name: str) -> list[str]:
        rows = [[token for token in row if token >= 0] for row in columns[name].tolist()]
        tokenizer: Tokenizer = vars(self)["_tokenizer"]
        return tokenizer.batch_decode(rows, skip_special_tokens=True)


def last_learnt(batch: "FlatBatch", learnt: "Tensor") -> Spans:
    """The last run of trained tokens in each sample's last sequence, with all tokens before it.

    The trained tokens are the answer, and the tokens before it the prompt. `learnt` [T] says which
    tokens are trained.
    """
    ends = batch.sequence_lengths.cumsum(0).tolist()
    last = {int(owner): number for number, owner in enumerate(batch.sequence_sample.tolist())}
    flags, found = learnt.tolist(), []
    for sample in range(batch.num_samples):
        number = last[sample]
        first, end = (ends[number - 1] if number else 0), ends[number]
        while end > first and not flags[end - 1]:
            end -= 1
        start = end
        while start > first and flags[start - 1]:
            start -= 1
        if start == first:
            name = f"sample {int(batch.sample_ids[sample])}"
            accepted = "accepted: rows with a prompt that is not learnt (recipe.train_on=last)"
            raise InputError(f"recipe.evaluate_texts: {name} has no prompt; {accepted}")
        found.append((first, start, end))
    return found


def first_halves(batch: "FlatBatch", prompt_tokens: int, max_new_tokens: int) -> Spans:
    """The first tokens of each sample as its prompt, and the tokens after them as its answer.

    Both are in the sample's first sequence. The prompt has at most `prompt_tokens` tokens and at
    most half of the sequence; the answer has at most `max_new_tokens` tokens.
    """
    starts = (batch.sequence_lengths.cumsum(0) - batch.sequence_lengths).tolist()
    lengths = batch.sequence_lengths.tolist()
    firsts: dict[int, int] = {}
    for number, owner in enumerate(batch.sequence_sample.tolist()):
        firsts.setdefault(int(owner), number)
    found = []
    for sample in range(batch.num_samples):
        first, length = starts[firsts[sample]], lengths[firsts[sample]]
        start = first + max(1, min(prompt_tokens, length // 2))
        found.append((first, start, min(first + length, start + max_new_tokens)))
    return found
