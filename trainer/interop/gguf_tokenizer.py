"""The tokenizer of a GGUF file: converts byte-level BPE or SentencePiece for `tokenizers`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from trainer.errors import InputError, nearest
from trainer.interop.gguf import GGUF, entries_of, opened

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
"""llama.cpp's numbers of the token types that are added to the tokenizer as whole tokens."""
ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "sep": "seperator"}
ROLES |= {"cls": "cls", "mask": "mask"}
"""Role of a special token -> llama.cpp's name for it; "seperator" is misspelled there."""

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SPLITS: Mapping[str, str | None] = {
    "gpt-2": None,
    "smollm": "digits",
    "starcoder": "digits",
    "refact": "digits",
    "command-r": "digits",
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
}
"""Pre-tokenizer of byte-level BPE -> how it splits texts: by a regular expression; None: like
GPT-2; "digits": like GPT-2, but every digit is a token.
"""
BY_ARCHITECTURE = {"gpt2": "gpt-2", "qwen2": "qwen2", "qwen3": "qwen2"}
"""Architecture -> the pre-tokenizer of files without tokenizer.ggml.pre. Llama is not listed,
because its models have different pre-tokenizers.
"""


def read_tokenizer(file: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Read the tokenizer and the entries of its tokenizer_config.json.

    Raises InputError for an unsupported kind of tokenizer.
    """
    gguf = opened(file)
    kind = gguf.get("tokenizer.ggml.model")
    if kind not in _MAKERS:
        accepted = ", ".join(_MAKERS)
        raise InputError(f"{file}: tokenizer.ggml.model: found {kind}; accepted: {accepted}")
    tokens = gguf.get("tokenizer.ggml.tokens") or []
    types = gguf.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    vocab = {token: number for number, token in enumerate(tokens)}
    if not tokens or len(vocab) != len(tokens):
        found = f"{len(tokens)} tokens, of which {len(vocab)} differ"
        raise InputError(f"{file}: tokenizer.ggml.tokens: found {found}; accepted: distinct tokens")
    if len(types) != len(tokens):
        found = f"{len(types)} types of {len(tokens)} tokens"
        raise InputError(f"{file}: tokenizer.ggml.token_type: found {found}; accepted: one of each")
    config = _config(gguf, tokens)
    try:
        backend = _MAKERS[kind](gguf, vocab, config)
    except InputError:
        raise
    except Exception as error:  # the library raises no narrower exception
        raise InputError(f"{file}: tokenizer: {error}") from error
    special = (UNKNOWN, CONTROL)
    backend.add_tokens(
        [
            AddedToken(token, special=kind in special, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind in (*special, USER_DEFINED)
        ]
    )
    _add_special_tokens(backend, gguf, config)
    return backend, config


def _config(gguf: GGUF, tokens: list[str]) -> dict[str, Any]:
    roles = {}
    for role, name in ROLES.items():
        number = gguf.get(f"tokenizer.ggml.{name}_token_id")
        if number is not None and not 0 <= number < len(tokens):
            accepted = f"0 to {len(tokens) - 1}"
            raise InputError(f"{gguf.file}: {name}_token_id: found {number}; accepted: {accepted}")
        roles[f"{role}_token"] = None if number is None else tokens[number]
    found = {"chat_template": _templates(gguf)}
    return entries_of(
        roles
        | found
        | {
            "model_max_length": gguf.model("context_length"),
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
        }
    )


def _templates(gguf: GGUF) -> str | dict[str, str] | None:
    """The chat template, or a mapping of names to templates."""
    default = gguf.get("tokenizer.chat_template")
    prefix = "tokenizer.chat_template."
    named = {key.removeprefix(prefix): gguf.get(key) for key in gguf.keys if key.startswith(prefix)}
    if not named:
        return default
    return named if default is None else {"default": default, **named}


def _byte_level(gguf: GGUF, vocab: dict[str, int], config: dict[str, Any]) -> tokenizers.Tokenizer:
    pre = gguf.get("tokenizer.ggml.pre") or "default"
    if pre == "default" and gguf.architecture in BY_ARCHITECTURE:
        pre = BY_ARCHITECTURE[gguf.architecture]
    if pre not in SPLITS:
        accepted = f"{', '.join(SPLITS)}{nearest(pre, SPLITS)}"
        found = "no pre-tokenizer" if pre == "default" else pre
        raise InputError(
            f"{gguf.file}: tokenizer.ggml.pre: found {found}; accepted: {accepted}, or the model's "
            "original tokenizer (tokenizer.path)"
        )
    merges = [tuple(merge.split(" ", 1)) for merge in gguf.get("tokenizer.ggml.merges") or []]
    split = SPLITS[pre]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab, merges, fuse_unk=False, ignore_merges=split == LLAMA3)
    )
    if split == QWEN2:
        backend.normalizer = normalizers.NFC()
    steps: list[Any] = []
    if split == "digits":
        steps = [pre_tokenizers.Digits(individual_digits=True)]
    elif split is not None:
        steps = [pre_tokenizers.Split(Regex(split), "isolated")]
    own_pattern = split is None or split == "digits"
    prefix = bool(gguf.get("tokenizer.ggml.add_space_prefix", False))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=own_pattern))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps) if steps[1:] else steps[0]
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(
    gguf: GGUF, vocab: dict[str, int], config: dict[str, Any]
) -> tokenizers.Tokenizer:
    """Build SentencePiece's BPE, in which a merge's priority is the score of the merged token."""
    scores = gguf.get("tokenizer.ggml.scores") or []
    if len(scores) != len(vocab):
        found = f"{len(scores)} for {len(vocab)} tokens"
        raise InputError(
            f"{gguf.file}: tokenizer.ggml.scores: found {found}; accepted: one per token"
        )
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab,
            _merges(vocab, scores),
            unk_token=config.get("unk_token"),
            fuse_unk=True,
            byte_fallback="<0x00>" in vocab,
        )
    )
    prefix = gguf.get("tokenizer.ggml.add_space_prefix", True)
    steps: list[Any] = [normalizers.Prepend("\u2581")] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])
    ends: list[Any] = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *ends]
    )
    return backend


def _merges(vocab: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """All pairs of tokens that form a token, ordered by that token's score, highest first."""
    found = []
    for token, number in vocab.items():
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in vocab and pair[1] in vocab]
        known.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        found += [(-scores[number], pair) for pair in known]
    found.sort(key=lambda each: each[0])
    return [pair for _, pair in found]


def _add_special_tokens(
    backend: tokenizers.Tokenizer, gguf: GGUF, config: Mapping[str, Any]
) -> None:
    """Make the backend add the file's BOS and EOS tokens to each text."""
    by_default = gguf.get("tokenizer.ggml.model") == "llama"
    by_default = by_default or gguf.get("tokenizer.ggml.pre") in ("llama-bpe", "llama3", "llama-v3")
    bos = config.get("bos_token") if gguf.get("tokenizer.ggml.add_bos_token", by_default) else None
    eos = config.get("eos_token") if gguf.get("tokenizer.ggml.add_eos_token", False) else None
    if not bos and not eos:
        return
    added = [token for token in (bos, eos) if token]
    one, two = (
        [f"{bos}:{n}"] * bool(bos) + [f"${text}:{n}"] + [f"{eos}:{n}"] * bool(eos)
        for n, text in enumerate("AB")
    )
    backend.post_processor = processors.TemplateProcessing(
        single=one,
        pair=[*one, *two],
        special_tokens=[(token, backend.token_to_id(token)) for token in dict.fromkeys(added)],
    )


_MAKERS = {"gpt2": _byte_level, "llama": _sentencepiece}
