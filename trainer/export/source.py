"""The source of an export: loads a model with its tokenizer and task."""

from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint import files
from trainer.models.formats.saving import config_entries
from trainer.models.pretrained import PretrainedModel
from trainer.runs.saving import write_model
from trainer.tasks.processor import Processor
from trainer.tasks.recipe import Recipe
from trainer.tasks.recipe_file import write_recipe
from trainer.tokenizer import Tokenizer


@dataclass
class Source:
    """A model in eval mode on the CPU, in fp32, without adapters, and its tokenizer and task."""

    path: str
    """The path or hub id from which the model was loaded."""
    model: PretrainedModel
    processor: Processor | None
    recipe: Recipe | None
    """The task; None: the model is exported without a task."""
    system: str | None = None
    """The system message that was used in training."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self.processor if isinstance(self.processor, Tokenizer) else None

    def write_whole(self, folder: Path) -> None:
        """Write a folder that `from_pretrained` can read: weights, config, tokenizer and task."""
        if self.recipe is not None:
            write_model(folder, self.model, self.processor, self.recipe, shipped=True)
            return
        self.model.save_pretrained(folder)
        if self.processor is not None:
            self.processor.save_pretrained(folder)

    def write_companions(self, folder: Path) -> None:
        """Write everything except the weights: config, tokenizer and task."""
        files.write_json(folder / "config.json", config_entries(self.model))
        if generation := self.model.generation_config:
            files.write_json(folder / "generation_config.json", generation)
        if self.processor is not None:
            self.processor.save_pretrained(folder)
        if self.recipe is not None:
            write_recipe(folder, self.recipe)
