"""Familiar names: aliases for methods of transformers' Trainer, and errors that suggest ours."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.callbacks.callback import Callback
from trainer.errors import InputError, nearest
from trainer.training.arguments import one_callback

ARGUMENTS = {
    "args": "settings=TrainSettings(...)",
    "processing_class": "tokenizer=...",
    "compute_loss_func": "loss=function of (outputs, batch) that returns (sum, count)",
    "optimizer_cls_and_kwargs": "settings=TrainSettings(optimizer=..., optimizer_options={...})",
    "model_init": "model=...; a sweep (-m) makes a new one for each job",
    "train_dataloader": "train_dataset=..., with data_collator=...",
}
"""Argument of transformers' Trainer -> what to use instead."""
OPTIONS = {
    "resume_from_checkpoint": "settings=TrainSettings(resume=...): auto, must or a path",
    "trial": "a sweep, `launch.py -m trainer.learning_rate=1e-5,3e-5`",
    "ignore_keys_for_eval": "preprocess_logits_for_metrics=function of (logits, labels)",
}
"""Argument of `train` in transformers' Trainer -> what to use instead."""
ATTRIBUTES = {
    "get_train_dataloader": "batches come from trainer.train_samples.collate(ids)",
    "get_eval_dataloader": "batches come from trainer.eval_samples[name].collate(ids)",
    "get_test_dataloader": "trainer.predict(rows) makes the batches",
    "hyperparameter_search": "a sweep, `launch.py -m trainer.learning_rate=1e-5,3e-5`",
    "create_optimizer": "optimizers=(optimizer, None) when creating the Trainer",
    "create_scheduler": "optimizers=(optimizer, scheduler) when creating the Trainer",
    "create_optimizer_and_scheduler": "optimizers=(optimizer, scheduler) of the Trainer",
    "compute_loss": "loss=function of (outputs, batch), or a recipe",
    "training_step": "one step is trainer/training/step.py",
    "prediction_step": "trainer.predict(rows)",
    "optimizer": "trainer.session.optimizer, once fit() has begun",
    "lr_scheduler": "trainer.session.learning_rate(step), once fit() has begun",
    "args": "trainer.settings",
    "processing_class": "trainer.tokenizer",
    "accelerator": "trainer.setup.placement",
    "is_world_process_zero": "trainer.ranks.is_main",
    "is_local_process_zero": "trainer.ranks.is_main",
    "log": "callbacks receive every row (Callback.on_log)",
    "log_metrics": "fit() returns them, and results.json holds them",
    "save_metrics": "results.json of the run's folder holds them",
    "save_state": "checkpoints hold the state (save_steps)",
    "create_model_card": "push_to_hub(repository) makes the card",
}
"""Method or attribute of transformers' Trainer -> what to use instead."""


class FamiliarNames(ABC):
    """Methods under the names of transformers' Trainer; errors for its other names suggest ours."""

    callbacks: list[Callback]

    def train(self, resume_from_checkpoint: object = None, **options: object) -> dict[str, Any]:
        """Alias of `fit`. Raises InputError for transformers' options, and names our equivalents.

        `resume_from_checkpoint` has no effect if it is None or False.
        """
        if resume_from_checkpoint not in (None, False):
            options = {"resume_from_checkpoint": resume_from_checkpoint, **options}
        for name in options:
            here = OPTIONS.get(name, "settings=TrainSettings(...) when creating the Trainer")
            raise InputError(f"train: no argument '{name}'; here it is {here}")
        return self.fit()

    @abstractmethod
    def fit(self) -> dict[str, Any]:
        """Train; defined by the Trainer."""

    @abstractmethod
    def save(self, directory: str | Path) -> None:
        """Save the model; defined by the Trainer."""

    def save_model(self, directory: str | Path) -> None:
        """Alias of `save`."""
        self.save(directory)

    def add_callback(self, callback: Callback | type[Callback]) -> None:
        """Add a callback; a class is instantiated first."""
        self.callbacks.append(one_callback(callback))

    def pop_callback(self, callback: Callback | type[Callback]) -> Callback | None:
        """Remove and return a callback, or the first one of a class; None if there is none."""
        for number, each in enumerate(self.callbacks):
            if each is callback or (isinstance(callback, type) and type(each) is callback):
                return self.callbacks.pop(number)
        return None

    def remove_callback(self, callback: Callback | type[Callback]) -> None:
        """Like `pop_callback`, but returns nothing."""
        self.pop_callback(callback)

    def __getattr__(self, name: str) -> Any:
        plain = f"'{type(self).__name__}' object has no attribute '{name}'"
        if name in ATTRIBUTES:
            raise AttributeError(f"{plain}; here: {ATTRIBUTES[name]}")
        raise AttributeError(plain)


def refuse_unknown(given: Mapping[str, Any], known: list[str]) -> None:
    """Raise InputError for arguments that a Trainer does not have, suggesting ours."""
    for name in given:
        if name in ARGUMENTS:
            raise InputError(f"Trainer: no argument '{name}'; here it is {ARGUMENTS[name]}")
        hint = nearest(name, known) or f"; accepted: {', '.join(known)}"
        raise InputError(f"Trainer: no argument '{name}'{hint}")
