"""What a model returns: dataclasses that are also mappings and tuples, as in transformers."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Self

from torch import Tensor

from trainer.models.projection import Projection


class ModelOutput:
    """Base of the output dataclasses: read by attribute, string key, index or slice.

    A field that is not set reads as None as an attribute, and is absent from keys, indices and
    iteration.
    """

    def keys(self) -> list[str]:
        """The names of the fields that are set, in order."""
        return [name for name, _ in self.items()]

    def values(self) -> list[Any]:
        """The fields that are set, in order."""
        return [value for _, value in self.items()]

    def items(self) -> list[tuple[str, Any]]:
        """(name, value) of the fields that are set, in order."""
        pairs = [(field.name, getattr(self, field.name)) for field in fields(self)]  # type: ignore[arg-type]
        return [(name, value) for name, value in pairs if value is not None]

    def get(self, name: str, default: Any = None) -> Any:
        """The field of this name, or `default` where it is not set."""
        return dict(self.items()).get(name, default)

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are set: what a model returns with `return_dict=False`."""
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else self.to_tuple()[key]

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.items())

    def __tf_flatten__(self) -> tuple[list[str], tuple[Any, ...]]:
        """The names and the values: a tf.function may return this, if it holds such tensors."""
        return self.keys(), self.to_tuple()

    @classmethod
    def __tf_unflatten__(cls, names: list[str], values: tuple[Any, ...]) -> Self:
        return cls(**dict(zip(names, values, strict=True)))


@dataclass
class BaseModelOutput(ModelOutput):
    """What the bare model returns. T is B x L in a padded call."""

    last_hidden_state: Tensor | None = None
    """[B, L, D], zeros at pad positions; [T, D] in a flat call"""
    pooler_output: Tensor | None = None
    """[B, D], for families that have a pooler"""
    hidden_states: tuple[Tensor, ...] | None = None
    """The embeddings and every layer's output, each as last_hidden_state"""
    attentions: tuple[Tensor, ...] | None = None
    """Every layer's attention probabilities [B, heads, L, L]; the rows of pad positions are zero"""


@dataclass
class SequenceClassifierOutput(ModelOutput):
    """What a model with a sequence classification head returns."""

    loss: Tensor | None = None
    """The mean over the batch, where labels were given"""
    logits: Tensor | None = None
    """[B, num_labels], before the activation"""
    hidden_states: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""
    attentions: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""


@dataclass
class TokenClassifierOutput(ModelOutput):
    """What a model with a token classification head returns."""

    loss: Tensor | None = None
    """The mean over the labelled tokens, where labels were given"""
    logits: Tensor | None = None
    """[B, L, num_labels] before the activation, zeros at pad positions; [T, num_labels] if flat"""
    hidden_states: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""
    attentions: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""


@dataclass
class QuestionAnsweringModelOutput(ModelOutput):
    """What a model with a question answering head returns."""

    loss: Tensor | None = None
    """The mean of the start's and the end's mean loss, where both positions were given"""
    start_logits: Tensor | None = None
    """[B, L] before the softmax over a sequence, zeros at pad positions; [T] in a flat call"""
    end_logits: Tensor | None = None
    """As start_logits"""
    hidden_states: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""
    attentions: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""


@dataclass
class MaskedLMOutput(ModelOutput):
    """What a model with a masked language modelling head returns."""

    loss: Tensor | None = None
    """The mean over the labelled tokens, where labels were given"""
    logits: Tensor | None = None
    """[B, L, vocab_size] before the softmax, zeros at pad positions; [T, vocab_size] if flat"""
    hidden_states: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""
    attentions: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""


@dataclass
class MultipleChoiceModelOutput(ModelOutput):
    """What a model with a multiple choice head returns; S sequences are all choices of all."""

    loss: Tensor | None = None
    """The mean over the batch, where labels were given"""
    logits: Tensor | None = None
    """[B, choices] before the softmax; [S] in a flat call that does not tell num_choices"""
    hidden_states: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`, a row for each of the S sequences"""
    attentions: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`, a row for each of the S sequences"""


class _Logits:
    """A field that may be set to a `Projection`: the logits are computed when first read."""

    def __get__(self, outputs: "CausalLMOutput | None", kind: type) -> Any:
        if outputs is None:
            return None  # the field's default
        found = vars(outputs)["_logits"]
        if isinstance(found, Projection):
            found = vars(outputs)["_logits"] = found.logits()
        return found

    def __set__(self, outputs: "CausalLMOutput", value: Tensor | Projection | None) -> None:
        vars(outputs)["_logits"] = value
        if isinstance(value, Projection):
            vars(outputs)["_projection"] = value


@dataclass(repr=False)
class CausalLMOutput(ModelOutput):
    """What a model with a causal language modelling head returns."""

    loss: Tensor | None = None
    """The mean over the labelled tokens, where labels were given"""
    logits: Any = _Logits()
    """[B, L, vocab_size] before the softmax, zeros at pad positions; [T, vocab_size] if flat.
    Computed when first read: who needs the loss alone reads `projection` instead"""
    hidden_states: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""
    attentions: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""

    @property
    def projection(self) -> Projection:
        """What the logits are made of, for `trainer.losses.next_token_loss`."""
        return vars(self)["_projection"]
