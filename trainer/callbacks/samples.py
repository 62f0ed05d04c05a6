"""Samples: what a language model writes in the course of its training."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from trainer.callbacks.callback import Callback, RunFacts
from trainer.errors import InputError
from trainer.generation.settings import GenerationSettings

if TYPE_CHECKING:
    from trainer.checkpoint.record import StepLog
    from trainer.recipe import Recipe


@dataclass
class Samples(Callback):
    """Goes on with prompts before the first step and at each evaluation, by what it evaluates.

    Each text is a row of samples.jsonl in the run's folder: step, prompt, text; the first prompt's
    is printed. Raises InputError, before the first step, for a model that writes no text and for
    prompts that do not fit it.
    """

    prompts: list[str]
    """What is gone on with."""
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    """How, as for job=generate."""
    chat: bool | Literal["auto"] = "auto"
    """Whether a prompt is a user's message; auto: as trained, else if there is a chat template."""

    def __post_init__(self) -> None:
        self._is_main = False
        self._log: StepLog | None = None
        if not self.prompts:
            raise InputError("callbacks.samples.prompts: found none; accepted: one text or more")

    def on_start(self, facts: RunFacts) -> None:
        from trainer.checkpoint.record import StepLog

        self._is_main = True
        if facts.output_dir is not None:
            self._log = StepLog(facts.output_dir / "samples.jsonl")
            self._log.cut_back(facts.first_step or -1)

    def on_weights(self, step: int, model: Any, tokenizer: Any, recipe: "Recipe") -> None:
        from trainer.generation.asking import as_asked, as_trained
        from trainer.generation.text import generate

        if getattr(model, "task", "") != "causal_lm" or tokenizer is None:
            found = f"found {getattr(model, 'architecture', type(model).__name__)}"
            accepted = "accepted: a causal language model with its tokenizer"
            raise InputError(f"callbacks.samples: {found}; {accepted}")
        asked = as_asked(tokenizer, self.prompts, as_trained(self.chat, None, vars(recipe)))
        texts = generate(model, tokenizer, asked, self.generation)
        if self._is_main:
            self._show(step, self.prompts[0] + "\n" * (asked is not self.prompts), texts[0])
            self._write(step, texts)

    def _show(self, step: int, prompt: str, text: str) -> None:
        from trainer.console import make_console
        from trainer.rendering.lines import sample_lines

        make_console().print(sample_lines(step, prompt, text), soft_wrap=True)

    def _write(self, step: int, texts: list[str]) -> None:
        if self._log is None:
            return
        for prompt, text in zip(self.prompts, texts, strict=True):
            self._log.append({"step": step, "prompt": prompt, "text": text})
        self._log.sync()  # a checkpoint of this step may follow
