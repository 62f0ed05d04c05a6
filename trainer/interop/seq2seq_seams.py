"""Finds out how a transformers encoder-decoder computes its decoder's inputs and its logits.

Dimensions: B texts of S tokens for the encoder and n for the decoder, a vocabulary of V tokens, D
channels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.errors import InputError
from trainer.interop.foreign_types import ForeignConfig, ForeignModule

BIAS = "final_logits_bias"
"""The name of the buffer [1, V] that BART and its relatives add to their logits."""


@dataclass(frozen=True)
class Seams:
    """What an encoder-decoder computes around its encoder, its decoder and its output layer."""

    start: int | None
    """The decoder's first token in training; if None, it is the target's last token, as in mBART"""
    scale: float
    """The factor that multiplies the decoder's outputs before the output layer, as in T5; else 1"""


@torch.no_grad()
def find_seams(inner: ForeignModule) -> Seams:
    """Compare a call to the whole model, which must be in eval mode, with calls to its modules.

    Raises InputError for a model whose loss this package would not compute as transformers does.
    """
    labels = distinct_ids(inner.config, 5).unsqueeze(0)
    seen: dict[str, Tensor] = {}
    decoder, head = inner.get_decoder(), inner.get_output_embeddings()
    hooks = [
        decoder.register_forward_pre_hook(
            lambda _, given, named: seen.update(ids=(*given, named.get("input_ids"))[0]),
            with_kwargs=True,
        ),
        head.register_forward_pre_hook(lambda _, given: seen.update(hidden=given[0])),
    ]
    try:
        logits = inner(input_ids=labels, labels=labels, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    states = decode(inner, seen["ids"], torch.ones_like(labels), encode(inner, labels))
    scale = _scale(inner, seen["hidden"], states)
    wanted = F.linear(states * scale, head.weight, output_bias(inner))
    if logits.shape != wanted.shape or not torch.allclose(logits, wanted, rtol=1e-3, atol=1e-4):
        found = f"{type(inner).__name__} changes logits after its output weights"
        raise InputError(f"{found}; accepted: models that do not")
    return Seams(_start(inner, seen["ids"][0], labels[0]), scale)


def unreached(inner: ForeignModule) -> list[str]:
    """The parameters that a loss of the model does not depend on, such as sinusoidal positions.

    Raises InputError for a mixture of experts: the experts that a text activates vary, but DDP
    needs gradients of the same parameters in every step. The routers' auxiliary losses would also
    be missing.
    """
    if any("expert" in name for name, _ in inner.named_modules()):
        kind = f"{inner.config.model_type}, an encoder-decoder with experts"
        raise InputError(f"model_type: found {kind}; accepted: encoder-decoders without experts")
    labels = distinct_ids(inner.config, 5).unsqueeze(0)
    with torch.enable_grad():
        inner(input_ids=labels, labels=labels, use_cache=False).loss.backward()
    found = [name for name, parameter in inner.named_parameters() if parameter.grad is None]
    inner.zero_grad(set_to_none=True)
    return found


def keep_all_layers(inner: ForeignModule) -> bool:
    """Switch off LayerDrop, which skips layers at random; returns whether it was on."""
    dropping = [module for module in inner.modules() if getattr(module, "layerdrop", 0)]
    for module in dropping:
        module.layerdrop = 0.0
    return bool(dropping)


def encode(inner: ForeignModule, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """The encoder's states [B, S, D] for ids [B, S]."""
    mask = torch.ones_like(ids) if mask is None else mask
    found: Tensor = inner.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    return found


def decode(
    inner: ForeignModule, ids: Tensor, seen: Tensor, states: Tensor, **options: object
) -> Tensor:
    """The decoder's states [B, n, D] for ids [B, n]; `seen` [B, S] is the encoder's mask."""
    options = {"use_cache": False, **options}
    found: Tensor = inner.get_decoder()(
        input_ids=ids, encoder_hidden_states=states, encoder_attention_mask=seen, **options
    ).last_hidden_state
    return found


def output_bias(inner: ForeignModule) -> Tensor | None:
    """[V], the bias of the logits; None if they have none."""
    own = getattr(inner.get_output_embeddings(), "bias", None)
    buffer = getattr(inner, BIAS, None)
    if buffer is None:
        return own
    return buffer.flatten() if own is None else own + buffer.flatten()


def distinct_ids(config: ForeignConfig, number: int) -> Tensor:
    """[number] distinct token ids, none of them special if the vocabulary is large enough."""
    size = config.get_text_config().vocab_size
    special = {
        value for name, value in config.to_dict().items()
        if name.endswith("token_id") and isinstance(value, int)
    }  # fmt: skip
    ids = [number for number in range(size) if number not in special]
    ids = (ids * number)[: max(number, len(ids))]
    return torch.tensor([ids[(7919 * n) % len(ids)] for n in range(1, number + 1)])


def _scale(inner: ForeignModule, hidden: Tensor, states: Tensor) -> float:
    """The factor that multiplies the decoder's outputs before the output layer."""
    found = float((hidden * states).sum() / states.square().sum().clamp_min(1e-30))
    known = (1.0, states.shape[-1] ** -0.5)
    nearest = min(known, key=lambda each: abs(each - found))
    scale = nearest if abs(nearest - found) < 1e-4 * nearest else found
    if hidden.shape != states.shape or not torch.allclose(
        hidden, scale * states, rtol=1e-3, atol=1e-5
    ):
        found_text = f"{type(inner).__name__} has layers between its decoder and its output weights"
        raise InputError(f"{found_text}; accepted: models without")
    return scale


def _start(inner: ForeignModule, ids: Tensor, labels: Tensor) -> int | None:
    if ids.shape != labels.shape or not torch.equal(ids[1:], labels[:-1]):
        found = f"{type(inner).__name__} does not read its labels shifted right by one"
        raise InputError(f"{found}; accepted: models that do")
    return None if int(ids[0]) == int(labels[-1]) else int(ids[0])
