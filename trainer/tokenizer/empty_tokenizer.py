"""Empty tokenizer: makes a tokenizer of a given kind with only special tokens, for training."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from trainer.tokenizer import layouts
from trainer.tokenizer.lengths import UNLIMITED, accept

Kind = Literal["wordpiece", "bpe", "unigram", "gpt2"]

LAYOUTS = {"wordpiece": layouts.BERT, "gpt2": layouts.GPT2}
"""A kind -> its special tokens; other kinds use RoBERTa's."""


def empty_tokenizer(
    kind: str, special: Sequence[str]
) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """A tokenizer of this kind, with only special tokens in its vocabulary, and its config.

    Raises InputError for an unknown kind.
    """
    accept("kind", kind, get_args(Kind))
    layout = LAYOUTS.get(kind, layouts.ROBERTA)
    order = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")
    if kind != "wordpiece":
        # the order of the ids in published tokenizers
        order = ("bos", "pad", "eos", "unk", "mask", "cls", "sep")
    own = list(dict.fromkeys(layout[role] for role in order if role in layout))
    tokens = list(dict.fromkeys([*special, *own]))
    backend = _EMPTY[kind](tokens, layout)
    backend.add_special_tokens([_flagged(token, layout, kind) for token in tokens])
    config = {f"{role}_token": token for role, token in layout.items()}
    names = ["input_ids", "attention_mask"]
    if kind == "wordpiece":
        names.insert(1, "token_type_ids")
    return backend, config | {
        "additional_special_tokens": [token for token in tokens if token not in own],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": UNLIMITED,
        "model_input_names": names,
    }


def _flagged(token: str, layout: dict[str, str], kind: str) -> AddedToken:
    """A special token with its flags; RoBERTa's mask token includes the space before it."""
    includes_space = token == layout.get("mask") and kind != "wordpiece"
    return AddedToken(token, special=True, normalized=False, lstrip=includes_space)


def _empty_wordpiece(tokens: list[str], layout: dict[str, str]) -> tokenizers.Tokenizer:
    vocab = {token: number for number, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=layout["unk"]))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    layouts.finish_bert(backend, layout)
    return backend


def _empty_bpe(tokens: list[str], layout: dict[str, str]) -> tokenizers.Tokenizer:
    vocab = {token: number for number, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    layouts.finish_roberta(backend, layout, False)
    return backend


def _empty_gpt2(tokens: list[str], layout: dict[str, str]) -> tokenizers.Tokenizer:
    """Byte-level BPE that adds no special tokens, so that a model can continue a text."""
    vocab = {token: number for number, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _empty_unigram(tokens: list[str], layout: dict[str, str]) -> tokenizers.Tokenizer:
    vocab = [(token, 0.0) for token in tokens]
    backend = tokenizers.Tokenizer(models.Unigram(vocab, tokens.index(layout["unk"])))
    backend.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    backend.decoder = decoders.Metaspace()
    cls, sep = layout["cls"], layout["sep"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} {sep} $B {sep}",
        special_tokens=[(token, tokens.index(token)) for token in (cls, sep)],
    )
    return backend


_EMPTY: Any = {
    "wordpiece": _empty_wordpiece,
    "bpe": _empty_bpe,
    "unigram": _empty_unigram,
    "gpt2": _empty_gpt2,
}
