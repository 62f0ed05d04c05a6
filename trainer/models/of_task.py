"""The model class of a task, from this package or from another one."""

from trainer.errors import InputError
from trainer.models.configured import ConfiguredModel
from trainer.models.family import find_head
from trainer.models.pretrained import PretrainedModel


def model_class(task: str) -> type[PretrainedModel] | type[ConfiguredModel]:
    """The class of models with the head `task`, by its name in recipes.

    Raises InputError, naming the available heads, for an unknown task.
    """
    found = find_head(task)
    if isinstance(found, type) and issubclass(found, (PretrainedModel, ConfiguredModel)):
        return found
    accepted = "accepted: a subclass of PretrainedModel or ConfiguredModel"
    raise InputError(f"recipe: head: '{task}': found {found!r}; {accepted}")
