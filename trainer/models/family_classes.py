"""Classes of one family, named as in transformers: BertForSequenceClassification, BertConfig."""

import types
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

from trainer.models.config import ModelConfig
from trainer.models.family import Family, find_family
from trainer.models.family_model import FamilyModel

HOME = "trainer"
"""The module in which pickle finds the classes."""


class OneFamilyConfig(ModelConfig):
    """A `ModelConfig` of one family: `BertConfig(num_hidden_layers=2)`."""

    model_type: ClassVar[str]

    def __init__(
        self,
        entries: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        where: str = "config.json",
        **named: object,
    ) -> None:
        """Use the family's defaults or the entries of a file, with the entries in `named` replaced.

        Raises InputError for a file of another family, and for the same reasons as `ModelConfig`.
        """
        own = {"model_type": named.pop("model_type", self.model_type)}
        entries = own if entries is None else entries
        found = entries.get("model_type")
        find_family(self.model_type).require(found, type(self).__name__, where)
        super().__init__(entries, {**(overrides or {}), **named}, where)


@cache
def config_class(model_type: str) -> type[OneFamilyConfig]:
    """The class of a family's configs."""
    name = find_family(model_type).name + "Config"
    return type(name, (OneFamilyConfig,), {"model_type": model_type, "__module__": HOME})


def of_family(head: type[FamilyModel], family: Family) -> type[FamilyModel]:
    """The class of a head on one family's body, named as in transformers.

    A head without a class in transformers, and a user's subclass of a head, fit every family and
    are returned unchanged.
    """
    own_name = "class_suffix" in vars(head) and (head.bare or head.class_suffix != "Model")
    if not own_name or head.only_family is not None or head.task not in family.heads:
        return head
    name = family.name + family.heads[head.task].class_suffix
    made = vars(head).get("of_families", {}).get(name)
    if made is None:
        shown = {"__doc__": head.__doc__, "__module__": HOME, "only_family": family}
        made = types.new_class(name, (head,), exec_body=lambda space: space.update(shown))
        head.of_families = {**vars(head).get("of_families", {}), name: made}
    return made
