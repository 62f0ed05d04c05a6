"""The bare model: token vectors, and one vector per sequence if the body has a pooler."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Unpack

from torch import Tensor

from trainer.models.cache import KeyValueCache
from trainer.models.encoding import Encoding
from trainer.models.inputs import Arguments
from trainer.models.outputs import ModelOutput
from trainer.models.pretrained import Given, PretrainedModel


@dataclass
class BaseModelOutput(ModelOutput):
    """The outputs of the bare model, for B sequences of at most L tokens."""

    last_hidden_state: Tensor | None = None
    """[B, L, D], zeros at pad positions; [T, D] in a flat call"""
    pooler_output: Tensor | None = None
    """[B, D], for families whose body has a pooler"""
    past_key_values: KeyValueCache | None = None
    """The cache of a decoder, if use_cache is true"""
    hidden_states: tuple[Tensor, ...] | None = None
    """The embeddings and every layer's output, each in the shape of last_hidden_state"""
    attentions: tuple[Tensor, ...] | None = None
    """Every layer's attention probabilities [B, heads, L, L]; the rows of pad positions are zero"""


class BaseModel(PretrainedModel):
    """A body without a head."""

    task = "base"
    class_suffix = "Model"
    bare = True
    kinds = ("encoder", "decoder")
    peft_task = "FEATURE_EXTRACTION"
    labels: ClassVar[tuple[str, ...]] = ()
    returns_cache = True

    if TYPE_CHECKING:

        def __call__(
            self,
            input_ids: Tensor,
            attention_mask: Tensor | None = None,
            **arguments: Unpack[Arguments],
        ) -> BaseModelOutput: ...

    def respond(self, encoding: Encoding, answers: Given) -> BaseModelOutput:
        return BaseModelOutput(
            last_hidden_state=encoding.last_hidden_state,
            pooler_output=None if self.body.pooler is None else encoding.encoded.pooled,
            past_key_values=encoding.cache,
            **encoding.traces,
        )


HEAD = BaseModel
