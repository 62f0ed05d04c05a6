"""Samples: shows texts that a language model generates while it trains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from trainer.callbacks.callback import Callback, RunFacts
from trainer.errors import InputError
from trainer.generation.settings import GenerationSettings

if TYPE_CHECKING:
    from torch import nn

    from trainer.checkpoint.record import StepLog
    from trainer.data.batch import FlatBatch
    from trainer.data.batch import Samples as EncodedSamples
    from trainer.models.model import Model
    from trainer.tasks.processor import Processor
    from trainer.tasks.recipe import Recipe

NUM_BEGINNINGS = 3
"""The number of prompts if none are given: the beginnings of this many evaluation samples."""
BEGINNING = 32
"""The maximum length in tokens of such a prompt if every token of its sample is trained on."""


@dataclass
class Samples(Callback):
    """Completes prompts before the first step and at each evaluation, with the evaluated weights.

    Each completion becomes a line of samples.jsonl in the run's folder, with its step, prompt and
    text. The text for the first prompt is also printed. Raises InputError, before the first step,
    for a model that cannot generate text and for prompts that leave no room for an answer.
    """

    prompts: list[str] | None = None
    """The prompts; None: the beginnings of evaluation samples, up to their first trained token."""
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    """The generation settings, as for job=generate."""
    chat: bool | Literal["auto"] = "auto"
    """Whether a prompt is a user's message in a chat. auto: use the recipe's setting; if there is
    none, true if the tokenizer has a chat template.
    """

    def __post_init__(self) -> None:
        self._is_main = False
        self._log: StepLog | None = None
        if self.prompts is not None and not self.prompts:
            raise InputError(
                "callbacks.samples.prompts: found none; accepted: one or more, or null"
            )
        if (count := self.generation.num_return_sequences) > 1:
            name = "callbacks.samples.generation.num_return_sequences"
            raise InputError(f"{name}: found {count}; accepted: 1")

    def on_start(self, facts: RunFacts) -> None:
        from trainer.checkpoint.record import StepLog

        self._is_main = True
        if facts.output_dir is not None:
            self._log = StepLog(facts.output_dir / "samples.jsonl")
            self._log.cut_back(facts.first_step or -1)

    def on_weights(
        self,
        step: int,
        model: "nn.Module",
        tokenizer: "Processor | None",
        recipe: "Recipe",
        eval_samples: "Mapping[str, EncodedSamples]",
    ) -> None:
        from trainer.generation.prompts import format_prompts, style_as_trained
        from trainer.generation.text import generate
        from trainer.models.model import Model
        from trainer.tokenizer import Tokenizer

        if not (
            isinstance(model, Model)
            and model.task == "causal_lm"
            and isinstance(tokenizer, Tokenizer)
        ):
            found = f"found {getattr(model, 'architecture', type(model).__name__)}"
            accepted = "accepted: a causal language model with its tokenizer"
            raise InputError(f"callbacks.samples: {found}; {accepted}")
        inputs: Sequence[Any]
        if self.prompts is None:
            inputs = self._beginnings(model, recipe, eval_samples)
            prompts = tokenizer.batch_decode(inputs, skip_special_tokens=True)
        else:
            style = style_as_trained(self.chat, None, recipe.prompt_options)
            inputs = format_prompts(tokenizer, self.prompts, style)
            prompts = self.prompts
        texts = generate(model, tokenizer, inputs, self.generation)
        if self._is_main:
            is_chat = self.prompts is not None and inputs is not self.prompts
            # an answer in a chat does not continue the prompt's line
            self._show(step, prompts[0] + "\n" * is_chat, texts[0])
            self._write(step, prompts, texts)

    def _beginnings(
        self, model: "Model", recipe: "Recipe", eval_samples: "Mapping[str, EncodedSamples]"
    ) -> list[list[int]]:
        """The token ids of NUM_BEGINNINGS prompts, from samples that leave room for an answer."""
        from trainer.data.batch import FlatBatch

        room = model.longest_sequence
        found: list[list[int]] = []
        for samples in eval_samples.values():
            for number in range(len(samples)):
                if len(found) == NUM_BEGINNINGS:
                    return found
                batch = samples.collate([number])
                assert isinstance(batch, FlatBatch)
                ids = _beginning(batch, recipe)
                if len(ids) + self.generation.max_new_tokens <= room:
                    found.append(ids)
        if not found:
            accepted = "prompts, or an evaluation set whose samples leave room for an answer"
            raise InputError(f"callbacks.samples.prompts: found null; accepted: {accepted}")
        return found

    def _show(self, step: int, prompt: str, text: str) -> None:
        from trainer.rendering.lines import sample_lines
        from trainer.terminal.console import make_console

        make_console().print(sample_lines(step, prompt, text), soft_wrap=True)

    def _write(self, step: int, prompts: list[str], texts: list[str]) -> None:
        if self._log is None:
            return
        for prompt, text in zip(prompts, texts, strict=True):
            self._log.append({"step": step, "prompt": prompt, "text": text})
        self._log.sync()  # must happen before a checkpoint of this step is written


def _beginning(batch: "FlatBatch", recipe: "Recipe") -> list[int]:
    """The token ids before the first trained token of a sample's first sequence.

    If the first or second token is already trained on, returns the start of the sequence.
    """
    length = int(batch.sequence_lengths[0])
    trained = recipe.trained_on(batch)
    first = 0 if trained is None else int(trained[:length].int().argmax())
    ids: list[int] = batch.input_ids[:length].tolist()
    return ids[:first] if first > 1 else ids[: min(BEGINNING, max(1, length // 2))]
