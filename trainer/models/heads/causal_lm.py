"""Causal language modeling: scores every vocabulary entry as the next token.

Dimensions: B sequences, padded to L tokens or with T tokens in total; D channels.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

from torch import Tensor, nn

from trainer.errors import InputError
from trainer.models.adapters.token_rows import token_matrix
from trainer.models.cache import KeyValueCache
from trainer.models.config import ModelConfig
from trainer.models.encoding import Encoding
from trainer.models.family import Family
from trainer.models.heads.losses import aligned_loss, successor_loss
from trainer.models.heads.projection import LazyLogits, Projection
from trainer.models.inputs import Arguments, Call
from trainer.models.outputs import ModelOutput
from trainer.models.pretrained import Given, PretrainedModel

log = logging.getLogger("trainer")


@dataclass(repr=False)
class CausalLMOutput(ModelOutput):
    """The outputs of a causal language model."""

    loss: Tensor | None = None
    """The mean loss over the labeled tokens, if labels were given"""
    logits: Any = LazyLogits()
    """[B, L, vocab_size] before the softmax, zeros at pad positions; [T, vocab_size] if flat.
    They are computed on first access. Code that needs only the loss reads `projection` instead."""
    past_key_values: KeyValueCache | None = None
    """The cache for the next call, if use_cache is true"""
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
    """In the shape of input_ids and not shifted; -100 where there is nothing to predict"""
    shift_labels: Tensor | None
    """The next token for each token; if given, the loss uses these in place of labels"""
    cache: KeyValueCache | None
    """The sequences that a flat call continues; the call extends the cache"""
    logits_to_keep: int | Tensor | None
    """How many of the last columns of a padded call get logits, or the columns; 0: all"""
    num_items_in_batch: Tensor | int | None
    """The divisor of the summed losses, in place of the number of labeled tokens"""


class CausalLMModel(PretrainedModel):
    """A decoder that scores every vocabulary entry as the next token, at every token.

    Logits are [B, L, vocab_size] ([T, vocab_size] in a flat call), before any activation: softmax
    over the last axis turns them into probabilities. The logits of pads are zeros. Logits are
    computed on first access; the loss does not need them.
    """

    task = "causal_lm"
    class_suffix = "ForCausalLM"
    kinds = ("decoder",)
    arguments = Answers
    unlisted = ("shift_labels",)
    keys = {"": "lm_head"}
    peft_task = "CAUSAL_LM"
    accepts_loss_kwargs = True
    loss_type = "ForCausalLM"
    returns_cache = True
    vocabulary = ("weight",)

    if TYPE_CHECKING:

        def __call__(
            self,
            input_ids: Tensor,
            attention_mask: Tensor | None = None,
            **arguments: Unpack[Answers],
        ) -> CausalLMOutput: ...

    @staticmethod
    def build(config: ModelConfig) -> nn.Module | None:
        """Make the output weights, unless they are tied to the token embeddings."""
        if config.tie_word_embeddings:
            return None
        return nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @staticmethod
    def tied_names(family: Family) -> Mapping[str, str]:
        return {"lm_head.weight": f"{family.keys['embeddings.token']}.weight"}

    def arrange(self, call: Call, answers: Given) -> Call:
        cache = answers.get("cache")
        if cache is not None and not call.is_flat:
            accepted = "past_key_values, or a call with sequence_lengths"
            raise InputError(f"cache: found one in a padded call; accepted: {accepted}")
        return call if cache is None else replace(call, cache=cache)

    def respond(self, encoding: Encoding, answers: Given) -> CausalLMOutput:
        kept = answers.get("logits_to_keep")
        body, tokens = self.body, encoding.encoded.tokens
        projection = Projection(
            tokens if body.logit_scale == 1 else tokens * body.logit_scale,
            self.output_weight,
            encoding.layout,
            cap=body.logit_cap,
            columns=None if isinstance(kept, int) and kept == 0 else kept,
            penalty=self._penalty(encoding.encoded.balance),
        )
        return CausalLMOutput(
            loss=_loss(projection, answers),
            logits=projection,
            past_key_values=encoding.cache,
            **encoding.traces,
        )

    def _penalty(self, balance: Tensor | None) -> Tensor | None:
        """[B], the routers' loss for each labeled token of a sequence."""
        return None if balance is None else self.config.router_aux_loss_coef * balance

    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **settings: Any,
    ) -> Any:
        """Continue input_ids [B, L]; returns [N, L + n], as in transformers.

        Rows that end earlier are padded. `settings` are those of transformers (`HubSettings` in
        `trainer.generation.hub_settings`), with the defaults of generation_config.json. Without
        `do_sample`, decoding is greedy. With return_dict_in_generate, the result is a
        `GenerateOutput`. For generation from texts see `trainer.generation`.
        """
        from trainer.generation.model_generate import generate_from_tensors

        if "inputs" in settings:
            input_ids = settings.pop("inputs")
        return generate_from_tensors(self, input_ids, attention_mask, settings)

    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: tuple[Tensor, ...],
        beam_indices: Tensor | None = None,
        normalize_logits: bool = False,
    ) -> Tensor:
        """[N, t], the scores of the generated tokens: see `transition_scores`."""
        from trainer.generation.transition_scores import transition_scores

        return transition_scores(sequences, scores, beam_indices, normalize_logits)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **inputs: Any) -> dict[str, Any]:
        """The arguments of a call that continues a text; PEFT requires this method."""
        past = inputs.get("past_key_values")
        seen = 0 if past is None else past.get_seq_length()
        return {"input_ids": input_ids[:, seen:], **inputs}

    @property
    def output_weight(self) -> Tensor:
        """[vocab_size, D], the output weights, which may be the token embeddings."""
        return token_matrix(self.get_input_embeddings() if self.head is None else self.head)


def _loss(projection: Projection, answers: Given) -> Tensor | None:
    """The mean loss of the given labels; `shift_labels` override `labels`, as in transformers."""
    labels, shifted = answers.get("labels"), answers.get("shift_labels")
    items = answers.get("num_items_in_batch")
    if shifted is not None:
        return aligned_loss(replace(projection, shifts=False), shifted, items, "shift_labels")
    return None if labels is None else successor_loss(projection, labels, items)


HEAD = CausalLMModel
