"""Samples: what a language model writes in the course of its training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from trainer.callbacks.callback import Callback, RunFacts
from trainer.errors import InputError
from trainer.generation.settings import GenerationSettings

if TYPE_CHECKING:
    from trainer.checkpoint.record import StepLog
    from trainer.data.batch import Samples as EncodedSamples
    from trainer.recipe import Recipe

NUM_BEGINNINGS = 3
"""Samples of the evaluation that are gone on with, where no prompts are given."""
BEGINNING = 32
"""Tokens of a beginning, at most, where a sample is learnt from its first token on."""


@dataclass
class Samples(Callback):
    """Goes on with prompts before the first step and at each evaluation, by what it evaluates.

    Each text is a row of samples.jsonl in the run's folder: step, prompt, text; the first prompt's
    is printed. Raises InputError, before the first step, for a model that writes no text and for
    prompts that do not fit it.
    """

    prompts: list[str] | None = None
    """What is gone on with; None: the first samples of the evaluation, up to what is learnt."""
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    """How, as for job=generate."""
    chat: bool | Literal["auto"] = "auto"
    """Whether a prompt is a user's message; auto: as trained, else if there is a chat template."""

    def __post_init__(self) -> None:
        self._is_main = False
        self._log: StepLog | None = None
        if self.prompts is not None and not self.prompts:
            raise InputError("callbacks.samples.prompts: found none; accepted: one or more, null")

    def on_start(self, facts: RunFacts) -> None:
        from trainer.checkpoint.record import StepLog

        self._is_main = True
        if facts.output_dir is not None:
            self._log = StepLog(facts.output_dir / "samples.jsonl")
            self._log.cut_back(facts.first_step or -1)

    def on_weights(
        self,
        step: int,
        model: Any,
        tokenizer: Any,
        recipe: "Recipe",
        eval_samples: "Mapping[str, EncodedSamples]",
    ) -> None:
        from trainer.generation.asking import as_asked, as_trained
        from trainer.generation.text import generate

        if getattr(model, "task", "") != "causal_lm" or tokenizer is None:
            found = f"found {getattr(model, 'architecture', type(model).__name__)}"
            accepted = "accepted: a causal language model with its tokenizer"
            raise InputError(f"callbacks.samples: {found}; {accepted}")
        asked: Sequence[Any]
        if self.prompts is None:
            asked = self._beginnings(model, recipe, eval_samples)
            prompts = tokenizer.batch_decode(asked, skip_special_tokens=True)
        else:
            asked = as_asked(tokenizer, self.prompts, as_trained(self.chat, None, vars(recipe)))
            prompts = self.prompts
        texts = generate(model, tokenizer, asked, self.generation)
        if self._is_main:
            is_turn = self.prompts is not None and asked is not self.prompts
            self._show(step, prompts[0] + "\n" * is_turn, texts[0])
            self._write(step, prompts, texts)

    def _beginnings(
        self, model: Any, recipe: Any, eval_samples: "Mapping[str, EncodedSamples]"
    ) -> list[list[int]]:
        """The ids of the first samples that leave the model's positions room for an answer."""
        room = getattr(model.config, "max_position_embeddings", math.inf)
        found: list[list[int]] = []
        for samples in eval_samples.values():
            for number in range(len(samples)):
                if len(found) == NUM_BEGINNINGS:
                    return found
                ids = _beginning(samples.collate([number]), recipe)
                if len(ids) + self.generation.max_new_tokens <= room:
                    found.append(ids)
        if not found:
            accepted = "prompts, or an evaluation set whose samples leave room for an answer"
            raise InputError(f"callbacks.samples.prompts: found null; accepted: {accepted}")
        return found

    def _show(self, step: int, prompt: str, text: str) -> None:
        from trainer.console import make_console
        from trainer.rendering.lines import sample_lines

        make_console().print(sample_lines(step, prompt, text), soft_wrap=True)

    def _write(self, step: int, prompts: list[str], texts: list[str]) -> None:
        if self._log is None:
            return
        for prompt, text in zip(prompts, texts, strict=True):
            self._log.append({"step": step, "prompt": prompt, "text": text})
        self._log.sync()  # a checkpoint of this step may follow


def _beginning(batch: Any, recipe: Any) -> list[int]:
    """The ids of a sample's first sequence, up to what is learnt; some, where all of it is."""
    length = int(batch.sequence_lengths[0])
    learnt = recipe.trained_on(batch)
    first = 0 if learnt is None else int(learnt[:length].to(int).argmax())
    ids = batch.inputs()["input_ids"][:length].tolist()
    return ids[:first] if first > 1 else ids[: min(BEGINNING, max(1, length // 2))]
