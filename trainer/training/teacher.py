"""Teachers: loads the second model whose outputs a distillation recipe learns from."""

import gc

from torch import nn

from trainer import hub
from trainer.devices.ranks import Ranks
from trainer.errors import InputError
from trainer.models.of_task import model_class
from trainer.models.pretrained import PretrainedModel
from trainer.tasks.processor import Processor
from trainer.tasks.recipe import Recipe
from trainer.tokenizer import Tokenizer

WHERE = "recipe.teacher"
ENTRIES = ("output_hidden_states", "output_attentions")
"""Config entries of the recipe's head that are also set when the teacher is loaded."""


def load_teacher(path: str, recipe: Recipe, tokenizer: Processor | None, ranks: Ranks) -> nn.Module:
    """The model at `path` with the recipe's head, on the device of this rank.

    Raises InputError if its vocabulary is not the tokenizer's, or its classes are not the recipe's.
    """
    folder = hub.find(path, what=WHERE)
    kind = model_class(recipe.head.task)
    if not issubclass(kind, PretrainedModel):
        raise InputError(f"{WHERE}: found {kind.__name__}; accepted: a model that reads texts")
    with ranks.main_first():
        _check_vocabulary(path, tokenizer)
        entries = {name: recipe.head.config[name] for name in ENTRIES if name in recipe.head.config}
        model = kind.from_pretrained(folder, **entries)
    _check_classes(model, recipe)
    return model.to(ranks.device).requires_grad_(False).eval()


def free_teacher_memory() -> None:
    """Free the memory of a teacher that is no longer referenced."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _check_vocabulary(path: str, tokenizer: Processor | None) -> None:
    if not isinstance(tokenizer, Tokenizer):
        return
    own, found = tokenizer.get_vocab(), Tokenizer.from_pretrained(path).get_vocab()
    if own == found:
        return
    differ = sorted(own.items() ^ found.items(), key=lambda item: item[1])[0][0]
    shown = f"another vocabulary than the tokenizer's ({len(found)} and {len(own)} tokens, "
    accepted = "accepted: a teacher with the same one"
    raise InputError(f"{WHERE}: has {shown}they differ in {differ!r:.40}); {accepted}")


def _check_classes(model: PretrainedModel, recipe: Recipe) -> None:
    names = recipe.class_names
    if names is None:
        return
    found = list(model.config.id2label.values())
    if found != names:
        shown = f"{', '.join(found[:5])}; the recipe {', '.join(names[:5])}"
        raise InputError(f"{WHERE}: has the classes {shown}; accepted: the same, in this order")
