"""Runs of tiny decoders by the recipes for text, as several tests train them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from recipes.causal_lm import CausalLM
from recipes.instruction import Instruction
from trainer.callbacks.callback import Callback
from trainer.models.auto import AutoModelForCausalLM
from trainer.models.config import ModelConfig
from trainer.models.lora_settings import LoRASettings
from trainer.recipe import Recipe
from trainer.settings import TrainSettings
from trainer.tokenizer import Tokenizer
from trainer.trainer import Trainer

WORDS = "hello world, what is two and two? four, of course. why so?"
TEXTS = [{"text": f"{WORDS} " * (n % 3) + WORDS[: 7 + 5 * n]} for n in range(9)]
CHATS = [
    {
        "messages": [
            {"role": role, "content": f"{WORDS[turn : 9 + 3 * n]} {turn}"}
            for turn, role in enumerate(("user", "assistant") * (1 + n % 3))
        ]
    }
    for n in range(14)
]
LLAMA = {
    "model_type": "llama",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "attention_dropout": 0.1,
}
GPT2 = {"model_type": "gpt2", "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 256}


@dataclass(frozen=True)
class Case:
    """A model, how it is trained, and on what."""

    recipe: Recipe
    rows: Sequence[dict[str, Any]]
    entries: dict[str, Any]
    lora: LoRASettings | None = None

    def model(self) -> Any:
        torch.manual_seed(1)
        entries = {"vocab_size": len(tokenizer()) + 3, **self.entries}
        model = AutoModelForCausalLM.from_config(ModelConfig(entries)).double()
        if self.lora is not None:
            model.add_lora(self.lora, "nowhere")
        return model

    def trainer(
        self, folder: Path | None = None, callbacks: Sequence[Callback] = (), **settings: Any
    ) -> Trainer:
        """Global batches of 5 samples; the last of an epoch is short."""
        values = {"global_batch_size": 5, "num_epochs": 2, "precision": "fp32"}
        strategy = settings.pop("strategy", "ddp")
        return Trainer(
            self.model(),
            self.recipe,
            TrainSettings(**{**values, **settings}),
            tokenizer=tokenizer(),
            train_dataset=list(self.rows),
            eval_dataset=list(self.rows[:5]),
            callbacks=callbacks,
            output_dir=folder,
            strategy=strategy,
        )


@cache
def tokenizer() -> Tokenizer:
    """It knows turns, and its pad ends them too, as SmolLM2's does."""
    marks = ["<|im_start|>", "<|im_end|>"]
    found = Tokenizer.train([WORDS] * 4, vocab_size=300, kind="gpt2", special_tokens=marks)
    found.eos_token = found.pad_token = marks[1]
    found.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return found


BLOCKS = CausalLM(max_length=24, stride=3)
CASES: dict[str, Case] = {
    "blocks, llama": Case(BLOCKS, TEXTS, {**LLAMA, "tie_word_embeddings": True}),
    "blocks, window": Case(BLOCKS, TEXTS, {**LLAMA, "model_type": "mistral", "sliding_window": 5}),
    "blocks, gpt2": Case(BLOCKS, TEXTS, GPT2),
    "chats, llama": Case(Instruction(max_length=96), CHATS, LLAMA),
    "chats, adapters": Case(
        Instruction(max_length=96), CHATS, LLAMA, LoRASettings(rank=3, dropout=0.1)
    ),
}
"""Dropout is on in all of them."""


def weights(trainer: Trainer) -> torch.Tensor:
    """All of them, end to end."""
    return torch.nn.utils.parameters_to_vector(trainer.model.parameters()).detach()


class Killed(BaseException):
    """Stands for a kill: nothing below catches it."""


@dataclass
class KillAt(Callback):
    """Ends a run after a step, before anything is saved for it."""

    step: int

    def on_step_end(self, step: int, total_steps: int) -> None:
        if step == self.step:
            raise Killed
