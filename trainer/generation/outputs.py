"""GenerateOutput: the detailed result of `generate`, with transformers' field names."""

from dataclasses import dataclass

from torch import Tensor

from trainer.models.outputs import ModelOutput

Layers = tuple[Tensor, ...]
"""One tensor per layer."""


@dataclass
class GenerateOutput(ModelOutput):
    """The result of `generate` with return_dict_in_generate=True.

    Shapes: N texts that start with L tokens. Step 0 processes the first L tokens, and each later
    step one token.
    """

    sequences: Tensor | None = None
    """The prompts with their continuations [N, n]."""
    sequences_scores: Tensor | None = None
    """The sum of log-probabilities divided by length ** penalty [N]; only with beams."""
    scores: tuple[Tensor, ...] | None = None
    """Each step's scores after all rules [N, V], or with a row per beam; with output_scores."""
    logits: tuple[Tensor, ...] | None = None
    """The model's own logits of each step [N, V], or with a row per beam; with output_logits."""
    beam_indices: Tensor | None = None
    """The index of the beam that each token extended [N, n - L], -1 after the end; with beams."""
    attentions: tuple[Layers, ...] | None = None
    """The attention [N, heads, tokens, tokens so far] by step and layer, with output_attentions."""
    hidden_states: tuple[Layers, ...] | None = None
    """The hidden states [N, tokens, D] by step and layer, with output_hidden_states.

    The first tensor of a step has the embeddings; the others are the outputs of the layers.
    """
    encoder_attentions: Layers | None = None
    """The attention of an encoder-decoder's encoder, as the model returns it."""
    encoder_hidden_states: Layers | None = None
    """The hidden states of an encoder-decoder's encoder, as the model returns them."""
    decoder_attentions: tuple[Layers, ...] | None = None
    """The same as `attentions`, for the decoder of an encoder-decoder."""
    cross_attentions: tuple[Layers, ...] | None = None
    """The cross-attention [N, heads, tokens, source tokens] of each step and layer."""
    decoder_hidden_states: tuple[Layers, ...] | None = None
    """The same as `hidden_states`, for the decoder of an encoder-decoder."""
    lengths: Tensor | None = None
    """The number of generated tokens of each text [N], without pads; not in transformers."""
