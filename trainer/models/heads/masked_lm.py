"""Masked language modeling: a score for every vocabulary entry at every token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from torch import Tensor, nn

from trainer.models.adapters.token_rows import token_matrix
from trainer.models.config import ModelConfig
from trainer.models.encoding import Encoding
from trainer.models.heads.layers import MaskedLMHead
from trainer.models.heads.losses import aligned_loss
from trainer.models.heads.projection import LazyLogits, Projection
from trainer.models.inputs import Arguments
from trainer.models.outputs import ModelOutput
from trainer.models.pretrained import Given, PretrainedModel


@dataclass(repr=False)
class MaskedLMOutput(ModelOutput):
    """The outputs of a masked language model."""

    loss: Tensor | None = None
    """The mean loss over the labeled tokens, if labels were given"""
    logits: Any = LazyLogits()
    """[B, L, vocab_size] before the softmax, zeros at pads; [T, vocab_size] in a flat call.
    Computed on first access; code that needs only the loss reads `projection` instead."""
    hidden_states: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""
    attentions: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""

    @property
    def projection(self) -> Projection:
        """The hidden states and output weights, for `trainer.tasks.losses.next_token_loss`."""
        found: Projection = vars(self)["_projection"]
        return found


class Answers(Arguments, total=False):
    """The keyword arguments of `forward` that only this head reads."""

    labels: Tensor | None
    """Token ids in the shape of input_ids; -100 where there is nothing to predict"""
    num_items_in_batch: Tensor | int | None
    """The divisor of the summed losses, in place of the number of labeled tokens"""


class MaskedLMModel(PretrainedModel):
    """An encoder that scores every vocabulary entry at every token (Devlin et al., 2018).

    Logits are [B, L, vocab_size] ([T, vocab_size] in a flat call), before any activation: softmax
    over the last axis turns them into probabilities. The logits of pads are zeros. The output
    weights are the token embeddings unless config.tie_word_embeddings is False. Logits are computed
    on first access; the loss does not need them.
    """

    task = "masked_lm"
    class_suffix = "ForMaskedLM"
    kinds = ("encoder",)
    arguments = Answers
    accepts_loss_kwargs = True
    keys = {
        "": "lm_head",
        "dense": "lm_head.dense",
        "norm": "lm_head.layer_norm",
        "decoder": "lm_head.decoder",
    }
    vocabulary = ("bias", "decoder.weight", "decoder.bias")

    if TYPE_CHECKING:

        def __call__(
            self,
            input_ids: Tensor,
            attention_mask: Tensor | None = None,
            **arguments: Unpack[Answers],
        ) -> MaskedLMOutput: ...

    @staticmethod
    def build(config: ModelConfig) -> nn.Module:
        return MaskedLMHead(
            config.hidden_size,
            config.vocab_size,
            activation=config.hidden_act,
            layer_norm_eps=config.layer_norm_eps,
            own_weight=not config.tie_word_embeddings,
        )

    @property
    def substitutes(self) -> Mapping[str, str]:
        """Output weights that a tied model's file lacks start as the token embeddings."""
        return {} if self.head.decoder is None else self.family_head.tied

    def respond(self, encoding: Encoding, answers: Given) -> MaskedLMOutput:
        labels = answers.get("labels")
        hidden = self.head(encoding.encoded.tokens)
        own = self.head.decoder
        weight = token_matrix(self.get_input_embeddings() if own is None else own)
        bias = self.head.bias if own is None else own.bias
        projection = Projection(hidden, weight, encoding.layout, bias, shifts=False)
        return MaskedLMOutput(
            loss=None
            if labels is None
            else aligned_loss(projection, labels, answers.get("num_items_in_batch")),
            logits=projection,
            **encoding.traces,
        )


HEAD = MaskedLMModel
