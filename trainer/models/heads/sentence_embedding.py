"""Sentence embedding: one vector for each sequence, pooled from its tokens."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.errors import InputError
from trainer.models.config import ModelConfig
from trainer.models.encoding import Encoding
from trainer.models.inputs import Arguments
from trainer.models.outputs import ModelOutput
from trainer.models.packing import Layout
from trainer.models.pretrained import Given, PretrainedModel

POOLINGS = ("mean", "first", "last", "weighted")
"""The mean of the tokens, the first or last token, or a mean weighted by position
(1, 2, 3, ...).
"""


@dataclass
class SentenceEmbeddingOutput(ModelOutput):
    """The outputs of a sentence embedding model."""

    embeddings: Tensor | None = None
    """[B, D] in at least fp32; of length 1 if config.embedding_normalize is true"""
    hidden_states: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""
    attentions: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""


class SentenceEmbeddingModel(PretrainedModel):
    """A body whose token vectors are pooled to one vector for each sequence.

    `config.embedding_pooling` is one of POOLINGS; if `config.embedding_normalize` is true,
    vectors have length 1. The weights are those of the bare model, without a pooler.
    """

    task = "sentence_embedding"
    class_suffix = "Model"
    kinds = ("encoder", "decoder")
    bare = True
    peft_task = "FEATURE_EXTRACTION"
    labels: ClassVar[tuple[str, ...]] = ()

    if TYPE_CHECKING:

        def __call__(
            self,
            input_ids: Tensor,
            attention_mask: Tensor | None = None,
            **arguments: Unpack[Arguments],
        ) -> SentenceEmbeddingOutput: ...

    @staticmethod
    def check_config(config: ModelConfig) -> None:
        if config.embedding_pooling not in POOLINGS:
            found = f"found {config.embedding_pooling!r}"
            raise InputError(f"embedding_pooling: {found}; accepted: {', '.join(POOLINGS)}")

    def respond(self, encoding: Encoding, answers: Given) -> SentenceEmbeddingOutput:
        tokens = encoding.encoded.tokens
        with torch.autocast(tokens.device.type, enabled=False):
            wide = torch.promote_types(tokens.dtype, torch.float32)
            vectors = pooled(tokens.to(wide), encoding.layout, self.config.embedding_pooling)
            if self.config.embedding_normalize:
                vectors = F.normalize(vectors, dim=-1)
        return SentenceEmbeddingOutput(embeddings=vectors, **encoding.traces)


def pooled(tokens: Tensor, layout: Layout, pooling: str) -> Tensor:
    """tokens [T, D] -> [B, D]. Tokens that an attention mask hides do not count."""
    counted = layout.counted
    if counted is None and pooling == "first":
        return tokens.index_select(0, layout.first_tokens)
    if counted is None and pooling == "last":
        return tokens.index_select(0, layout.last_tokens)
    visible = torch.ones_like(tokens[:, 0]) if counted is None else counted
    weights = layout.to_grid(visible.to(tokens.dtype))
    places = weights.cumsum(1) * weights  # 1, 2, 3, ... for the visible tokens of each sequence
    match pooling:
        case "first":
            weights = (places == 1).to(tokens.dtype)
        case "last":
            weights = (places == places.amax(1, keepdim=True)).to(tokens.dtype) * weights
        case "weighted":
            weights = places
    sums = (layout.to_grid(tokens) * weights.unsqueeze(-1)).sum(1)
    return sums / weights.sum(1, keepdim=True).clamp(min=1e-9)


HEAD = SentenceEmbeddingModel
