"""The vocabulary of a GGUF file: converts a tokenizer of byte-level or SentencePiece-like BPE."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.errors import InputError
from trainer.interop.gguf_tokenizer import CONTROL, ROLES, SPLITS, UNKNOWN, USER_DEFINED
from trainer.tokenizer import Tokenizer

NORMAL, UNUSED, BYTE = 1, 5, 6
"""llama.cpp's numbers of the types of ordinary tokens, unused ids and single-byte tokens."""
NAMES = ("gpt-2", "smollm", "llama-bpe", "qwen2")
"""The pre-tokenizers that can be written. The other names that can be read are synonyms."""

Entries = dict[str, Any]


@dataclass(frozen=True)
class Vocabulary:
    """The entries of a GGUF file that describe the tokenizer."""

    kind: str
    """gpt2 (byte-level BPE) or llama (SentencePiece)."""
    pre: str
    """The name of the pre-tokenizer."""
    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str]
    """For byte-level BPE: pairs separated by a space, such as "th e", in order of priority."""
    scores: Sequence[float]
    """For SentencePiece: the score of each token; the highest-scoring merge is applied first."""
    flags: Mapping[str, bool]
    """The values of add_bos_token, add_eos_token and add_space_prefix."""
    ids: Mapping[str, int]
    """llama.cpp's name of a special token -> id of the token."""
    template: str | Mapping[str, str] | None
    """The chat template, or name -> template if there are several."""


def vocabulary_of(tokenizer: Tokenizer, size: int, ends: Sequence[int]) -> Vocabulary:
    """Convert the tokenizer of a model with `size` embeddings.

    `ends` are the tokens that end a text. Raises InputError for a tokenizer that the format does
    not support.
    """
    saved = json.loads(tokenizer.backend.to_str())
    model = saved["model"]
    if model.get("type") != "BPE":
        raise _refused(f"a {model.get('type')} model")
    kind = "llama" if model.get("byte_fallback") else "gpt2"
    tokens, types = _tokens(tokenizer, saved, size, kind)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    return Vocabulary(
        kind=kind,
        pre=_pre_tokenizer(saved) if kind == "gpt2" else "default",
        tokens=tokens,
        types=types,
        merges=merges if kind == "gpt2" else [],
        scores=_scores(tokens, merges) if kind == "llama" else [],
        flags=_flags(tokenizer, saved),
        ids=_ids(tokenizer, ends),
        template=tokenizer.chat_template,
    )


def _tokens(
    tokenizer: Tokenizer, saved: Entries, size: int, kind: str
) -> tuple[list[str], list[int]]:
    """The tokens of all ids below `size`, and their types."""
    vocabulary = tokenizer.get_vocab()
    if vocabulary and max(vocabulary.values()) >= size:
        found = f"{max(vocabulary.values()) + 1} tokens for {size} embeddings"
        raise InputError(f"tokenizer: found {found}; accepted: as many embeddings as tokens")
    tokens, types = [f"[PAD{number}]" for number in range(size)], [UNUSED] * size
    for token, number in vocabulary.items():
        is_byte = kind == "llama" and re.fullmatch("<0x[0-9A-F]{2}>", token)
        tokens[number], types[number] = token, BYTE if is_byte else NORMAL
    for added in saved["added_tokens"]:
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    unknown = saved["model"].get("unk_token")
    if unknown is not None and kind == "llama":
        if unknown not in vocabulary:  # the library loads such a file, and fails at unknown text
            raise InputError(
                f"tokenizer: unk_token: found {unknown!r:.60}; accepted: a token of it"
            )
        types[vocabulary[unknown]] = UNKNOWN
    return tokens, types


def _pre_tokenizer(saved: Entries) -> str:
    """llama.cpp's name of the pre-tokenizer. Raises InputError if it has none."""
    found = _steps(saved.get("pre_tokenizer"))
    normalizers = [step["type"] for step in _steps(saved.get("normalizer"))]
    for name in NAMES:
        split = SPLITS[name]
        wanted: list[Entries] = [{"type": "ByteLevel", "use_regex": split in (None, "digits")}]
        if split == "digits":
            wanted = [{"type": "Digits", "individual_digits": True}, *wanted]
        elif split is not None:
            pattern = {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated"}
            wanted = [pattern, *wanted]
        same_text = normalizers == (["NFC"] if name == "qwen2" else [])
        if same_text and len(found) == len(wanted):
            pairs = zip(found, wanted, strict=True)
            if all(step.get(key) == v for step, keys in pairs for key, v in keys.items()):
                return name
    raise _refused(f"a pre-tokenizer other than those of {', '.join(NAMES)}")


def _steps(part: Entries | None) -> list[Entries]:
    """The steps of a pre-tokenizer or normalizer, which may be a sequence."""
    if part is None:
        return []
    nested = part.get("pretokenizers") or part.get("normalizers")
    return [part] if nested is None else [step for each in nested for step in _steps(each)]


def _scores(tokens: Sequence[str], merges: Sequence[str]) -> list[float]:
    """A score for every token: minus the rank of the first merge that creates it.

    Tokens that no merge creates have the lowest score.
    """
    first: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        first.setdefault(merge.replace(" ", "", 1), rank)
    return [-float(first.get(token, len(merges))) for token in tokens]


def _flags(tokenizer: Tokenizer, saved: Entries) -> dict[str, bool]:
    ids = tokenizer("a")["input_ids"]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    steps = [*_steps(saved.get("normalizer")), *_steps(saved.get("pre_tokenizer"))]
    prefix = any(
        step["type"] == "Prepend"
        or (step["type"] == "Metaspace" and step.get("prepend_scheme") in ("always", "first"))
        or step.get("add_prefix_space") is True
        for step in steps
    )
    return {
        "add_bos_token": bos is not None and len(ids) > 1 and ids[0] == bos,
        "add_eos_token": eos is not None and len(ids) > 1 and ids[-1] == eos,
        "add_space_prefix": prefix,
    }


def _ids(tokenizer: Tokenizer, ends: Sequence[int]) -> dict[str, int]:
    """The ids of special tokens.

    If up to three tokens end a text, they become llama.cpp's eos, eot (end of turn) and eom (end of
    message).
    """
    found = {name: getattr(tokenizer, f"{role}_token_id") for role, name in ROLES.items()}
    others = [end for end in ends if end != found.get("eos")]
    if found.get("eos") is None and others:
        found["eos"] = others.pop(0)
    if len(others) > 2:
        raise _refused(f"{len(others) + 1} tokens that end a text; accepted: 3")
    found |= dict(zip(("eot", "eom"), others, strict=False))
    return {name: number for name, number in found.items() if number is not None}


def _refused(found: str) -> InputError:
    accepted = "accepted: byte-level BPE, or BPE with byte fallback"
    return InputError(f"tokenizer: gguf does not support {found}; {accepted}")
