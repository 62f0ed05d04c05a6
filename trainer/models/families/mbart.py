"""mBART (Liu et al., 2020): multilingual pre-norm BART."""

from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from trainer.models.blocks.encoder_decoder import EncoderDecoder
from trainer.models.blocks.norms import LayerNorm
from trainer.models.config import ModelConfig
from trainer.models.family import Family, FamilyHead
from trainer.models.formats import bart_format


class FinalNorm(nn.Module):
    """A norm after the last layer."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = LayerNorm(size)

    def forward(self, x: Tensor, dropout_keys: Tensor | None) -> Tensor:
        """[T, D] -> [T, D]"""
        found: Tensor = self.norm(x)
        return found


class MBartBody(EncoderDecoder):
    """Pre-norm encoder and decoder; the decoder's input starts with the target's last token."""

    starts_from_last = True


def _body(config: ModelConfig, pooler: bool) -> EncoderDecoder:
    assert not pooler, "this family has no pooler"
    encoder, decoder = (replace(s, pre_norm=True) for s in bart_format.stacks(config))
    final = partial(FinalNorm, config.d_model)
    return MBartBody(bart_format.Embeddings(config), encoder, decoder, final)


FAMILY = Family(
    model_type="mbart",
    name="MBart",
    prefix="model",
    defaults={
        **bart_format.DEFAULTS,
        "vocab_size": 50265,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": None,
        "forced_eos_token_id": 2,
    },
    synonyms=bart_format.SYNONYMS,
    optional={"forced_bos_token_id": None},
    constants=bart_format.CONSTANTS,
    required=bart_format.REQUIRED,
    no_effect=bart_format.NO_EFFECT,
    body=_body,
    keys={
        **bart_format.EMBEDDINGS,
        **bart_format.LAYERS,
        "encoder_final.norm": "encoder.layer_norm",
        "decoder_final.norm": "decoder.layer_norm",
    },
    kind="encoder_decoder",
    own_heads={
        "seq2seq_lm": FamilyHead(tied=bart_format.TIED, class_suffix="ForConditionalGeneration")
    },
    known_extras=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
)
