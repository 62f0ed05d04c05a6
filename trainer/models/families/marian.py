"""Marian (Junczys-Dowmunt et al., 2018), for OPUS-MT's translation models: sinusoidal positions.

T is the number of tokens.
"""

import math

import torch
from torch import Tensor, nn

from trainer.devices.precision import in_float64
from trainer.models.blocks.autocast import to_autocast_type
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.encoder_decoder import EncoderDecoder, SharedEmbeddings
from trainer.models.config import ModelConfig
from trainer.models.family import Family, FamilyHead
from trainer.models.formats import bart_format
from trainer.models.inputs import FlatInputs


class Embeddings(SharedEmbeddings):
    """Token embeddings of encoder and decoder, with sinusoidal positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocab_size, config.d_model, config.pad_token_id)
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        self.dropout = Dropout(config.dropout)
        self.decoder_dropout = Dropout(config.dropout)
        self.encoder_bias = self.decoder_bias = None

    def forward(self, inputs: FlatInputs) -> Tensor:
        return self.dropout(self._embedded(inputs), inputs.dropout_keys)

    def of_decoder(self, inputs: FlatInputs) -> Tensor:
        return self.decoder_dropout(self._embedded(inputs), inputs.dropout_keys)

    def _embedded(self, inputs: FlatInputs) -> Tensor:
        x = self.token(inputs.input_ids) * self.scale
        return to_autocast_type(x + sinusoids(inputs.position_ids, x.shape[1]).to(x.dtype))


def sinusoids(positions: Tensor, size: int) -> Tensor:
    """positions [T] -> [T, size], fp32: sines of increasing wavelengths, then cosines.

    This is the positional encoding of Vaswani et al. (2017), with sines in the first half and
    cosines in the second half.
    """
    half = (size + 1) // 2
    places = in_float64(positions)  # in float32, the angles of late positions would be inexact
    indices = torch.arange(half, dtype=torch.float64, device=places.device)
    angles = places.unsqueeze(1) / 10000 ** (2 * indices / size)
    found = torch.cat((angles.sin(), angles.cos()[:, : size - half]), 1).float()
    return found.to(positions.device)


def _body(config: ModelConfig, pooler: bool) -> EncoderDecoder:
    assert not pooler, "this family has no pooler"
    embeddings, stacks = Embeddings(config), bart_format.stacks(config)
    return EncoderDecoder(embeddings, *stacks, bart_format.Unchanged)


FAMILY = Family(
    model_type="marian",
    name="Marian",
    prefix="model",
    defaults={
        **bart_format.DEFAULTS,
        "vocab_size": 58101,
        "pad_token_id": 58100,
        "bos_token_id": None,
        "eos_token_id": 0,
        "decoder_start_token_id": 58100,
        "forced_eos_token_id": 0,
    },
    synonyms=bart_format.SYNONYMS,
    optional={"forced_bos_token_id": None},
    constants=bart_format.CONSTANTS,
    required={**bart_format.REQUIRED, "share_encoder_decoder_embeddings": True},
    no_effect=bart_format.NO_EFFECT | {"decoder_vocab_size"},
    body=_body,
    keys={"embeddings.token": "shared", **bart_format.LAYERS},
    kind="encoder_decoder",
    own_heads={"seq2seq_lm": FamilyHead(tied=bart_format.TIED, class_suffix="MTModel")},
    known_extras=(
        *("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
        *("encoder.embed_positions.weight", "decoder.embed_positions.weight"),
    ),
)
