"""FamilyModel: a body of a native family and, for a task, a head on it."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from torch import nn

from trainer.errors import InputError
from trainer.models.blocks.dropout import number_sites
from trainer.models.body import Body
from trainer.models.cache import KeyValueCache
from trainer.models.config import ModelConfig
from trainer.models.family import Family, ResolvedHead, family_of
from trainer.models.formats import keys
from trainer.models.formats.expert_files import StoredExperts
from trainer.models.input_checks import max_sequence_length
from trainer.models.inputs import Arguments
from trainer.models.model import Model


class PendingWeights(Protocol):
    """The source of weights that are still on the meta device."""

    def fill(self, model: Any, part: nn.Module) -> None:
        """Load the weights of a part of the model, or of the whole model, on the CPU."""


class FamilyModel(Model):
    """The interface of a `PretrainedModel` for loading, saving and resizing."""

    body: Body
    kinds: ClassVar[tuple[str, ...]] = ()
    """The kinds of bodies that the head fits (`Family.kind`)."""
    only_family: ClassVar[Family | None] = None
    """The family of a class such as BertForSequenceClassification; None: any"""
    of_families: ClassVar[dict[str, type["FamilyModel"]]] = {}
    """The classes derived from this class for single families, by class name"""
    bare: ClassVar[bool] = False
    """Whether the corresponding transformers class is the bare model (such as BertModel), whose
    tensor names have no prefix."""
    keys: ClassVar[Mapping[str, str]] = {}
    """The head's module ("": the head itself) -> its name in files on the hub; a family may
    override the table."""
    arguments: ClassVar[type] = Arguments
    """A TypedDict of the arguments of `forward`: those of every model, and those of this head."""
    labels: ClassVar[tuple[str, ...]] = ("labels",)
    """The head's own arguments that may be positional, after position_ids."""
    unlisted: ClassVar[tuple[str, ...]] = ()
    """Accepted arguments that the signature does not list. transformers' Trainer computes an
    evaluation loss only if a batch has every listed argument with `label` in its name."""
    returns_cache: ClassVar[bool] = False
    """Whether a decoder with this head returns a cache of keys and values."""
    head_in_fp32: ClassVar[bool] = False
    """Whether the head computes in fp32 even under autocast."""
    reads_first_token: ClassVar[bool] = False
    """Whether the head reads one vector per sequence: the first token's or the pooler's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pending: PendingWeights | None = None
        """The source of weights that are still on the meta device."""
        self.originals: PendingWeights | None = None
        """The source of the original weights of quantized layers."""
        if self.only_family is not None:
            self.only_family.require(config.model_type, type(self).__name__, "config")
        self.check_config(config)
        self.config = config
        head = self.family_head
        self.body = self.family.body(config, head.pooler)
        self.body.gradient_checkpointing = bool(config.gradient_checkpointing)
        self.head: Any = head.build(config)
        number_sites(self)

    @staticmethod
    def check_config(config: ModelConfig) -> None:
        """Raise InputError for a config that the head does not support."""

    @staticmethod
    def build(config: ModelConfig) -> nn.Module | None:
        """The head's default module, which a family may override; None: the head has no module."""
        return None

    @staticmethod
    def tied_names(family: Family) -> Mapping[str, str]:
        """Name of a tied tensor in files on the hub -> name of the tensor that it equals.

        Subclasses may override this.
        """
        return {}

    @property
    def family(self) -> Family:
        """The family of the model's body."""
        return family_of(self.config)

    @property
    def family_head(self) -> ResolvedHead:
        """The family's head for this task. Raises InputError if there is none."""
        family, heads = self.family, self.family.heads
        if self.task not in heads:
            tasks = ", ".join(task for task in heads if task != "base")
            raise InputError(f"model: {family.name} has no head for {self.task}; accepted: {tasks}")
        return heads[self.task]

    @property
    def prefix(self) -> str:
        return self.family.prefix

    @property
    def embeddings_name(self) -> str:
        return self.family.keys["embeddings.token"]

    @property
    def known_ties(self) -> Mapping[str, str]:
        return self.family_head.tied

    @property
    def tied(self) -> Mapping[str, str]:
        return self.family_head.tied if self.config.tie_word_embeddings else {}

    @property
    def substitutes(self) -> Mapping[str, str]:
        """A tensor's name in files on the hub -> the tensor to use instead if a file lacks it."""
        return {}

    @property
    def architecture(self) -> str:
        """The name of this class in transformers, such as BertForSequenceClassification."""
        return self.family.name + self.family_head.class_suffix

    def in_body(self, parameter_name: str) -> bool:
        return parameter_name.startswith(keys.BODY)

    @property
    def layer_prefixes(self) -> tuple[str, ...]:
        return tuple(f"{keys.BODY}{name}." for name, _ in self.body.units)

    @property
    def output_parameters(self) -> tuple[str, ...]:
        known = {} if self.head is None else dict(self.head.named_parameters())
        return tuple(f"{keys.HEAD}{name}" for name in self.vocabulary if name in known)

    def short_name(self, parameter_name: str) -> str:
        return keys.short_hub_name(parameter_name, self.family, self.task)

    def hub_name(self, parameter_name: str) -> str:
        return keys.hub_name(parameter_name, self.family, self.task)

    @property
    def peft_names(self) -> Mapping[str, tuple[str, ...]]:
        return self.family.peft_names

    @property
    def stored_experts(self) -> StoredExperts | None:
        return self.family.stored_experts

    def plain_name(self, name: str) -> str:
        """The name that this parameter would have in a model with a single head.

        A model with several heads overrides this.
        """
        return name

    @property
    def longest_sequence(self) -> int:
        return max_sequence_length(self.config)

    def new_cache(self, num_sequences: int) -> KeyValueCache:
        return KeyValueCache(num_sequences)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.body.token_embeddings
