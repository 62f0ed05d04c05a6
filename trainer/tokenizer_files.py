"""Tokenizer files: tokenizer.json, vocab.txt and the configs beside them, read and checked."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from trainer.errors import InputError

MAX_FILE_BYTES = 64 * 2**20
"""No vocabulary in use is half as large; what is larger was not meant to be one."""
UNLIMITED = int(1e30)
"""The `model_max_length` of a tokenizer whose files name none, as on the hub."""
SPECIAL_TOKENS = tuple(
    f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
CONVENTIONAL = (
    {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"},
    {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>"}
    | {"cls": "<s>", "mask": "<mask>"},
    {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"},
)
"""BERT's, RoBERTa's and GPT-2's names, for folders so old that no file says what is special."""
KINDS: dict[str, Any] = {
    "model_max_length": int | float,
    "model_input_names": list,
    "tokenizer_class": str,
    "added_tokens_decoder": dict,
    "additional_special_tokens": list,
    "do_lower_case": bool,
    "strip_accents": bool,
    "tokenize_chinese_chars": bool,
}
"""What a config's entries must be; null stands for absent."""
BERT = ("unk", "sep", "pad", "cls", "mask")
SEGMENTED = ("Bert", "Electra", "Albert", "MobileBert", "ConvBert", "RoFormer")
"""Tokenizer classes whose families tell a pair's texts apart by token_type_ids."""
BERT_OPTIONS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""tokenizer_config.json's names for the options of BERT's normalizer."""


def read(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The tokenizer in a folder, and its config with what old folders leave unsaid.

    The config has special tokens, model_max_length, model_input_names and tokenizer_class.
    Raises InputError where there is no tokenizer, or where a file is not what its name says.
    """
    config = _read_config(folder)
    backend = _read_backend(folder, config)
    return backend, _completed(config, _read_json(folder / "config.json"), backend)


def content(token: Any) -> str | None:
    """The text of a token, which stands in the files as a string or as an object."""
    if isinstance(token, dict):
        token = token.get("content")
    if token is None or isinstance(token, str):
        return token
    raise InputError(f"tokenizer_config.json: found {token!r:.40} as a token; accepted: a string")


def _read_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, completed by special_tokens_map.json."""
    config = _read_json(folder / "tokenizer_config.json")
    special = _read_json(folder / "special_tokens_map.json")
    config |= {name: token for name, token in special.items() if config.get(name) is None}
    if wrong := _wrong_entry(config):
        raise InputError(f"{folder / 'tokenizer_config.json'}: {wrong}")
    return config


def _wrong_entry(config: dict[str, Any]) -> str | None:
    """What is wrong with the first entry that is not what it must be."""
    for name, kind in KINDS.items():
        if config.get(name) is not None and not isinstance(config[name], kind):
            accepted = getattr(kind, "__name__", "a number")
            return f"{name}: found {config[name]!r:.40}; accepted: {accepted}"
    for name in ("padding_side", "truncation_side"):
        if config.get(name) not in (None, "left", "right"):
            return f"{name}: found '{config[name]}'; accepted: left, right"
    for number, token in (config.get("added_tokens_decoder") or {}).items():
        if not number.isdecimal() or not isinstance(token, dict):
            found = f"{number!r}: {token!r:.40}"
            return f"added_tokens_decoder: found {found}; accepted: an id and its token, an object"
    return None


def _read_backend(folder: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    file = folder / "tokenizer.json"
    if not file.is_file():
        return _wordpiece(folder, config)
    text = _read_text(file)
    try:
        backend = tokenizers.Tokenizer.from_str(text)
        # MiniLM's tokenizer.json pads every text to 128; both are the caller's to ask for.
        backend.no_padding()
        backend.no_truncation()
        # What the parts say of each other is only looked at in use: an unknown letter, a pair.
        backend.encode("\U0010ffff")
        backend.encode("", "")
    except BaseException as error:
        # The library raises plain Exceptions, and panics are not even that.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{file}: {error}; accepted: what `tokenizers` saves") from error
    if isinstance(backend.normalizer, normalizers.BertNormalizer):
        # Some folders hold one tokenizer.json for a cased and an uncased model.
        backend.normalizer = _bert_normalizer(config, backend.normalizer)
    return backend


def _wordpiece(folder: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """BERT's tokenizer from its vocab.txt, one token a line."""
    file = folder / "vocab.txt"
    if not file.is_file():
        raise InputError(f"{folder}: found no tokenizer; accepted: tokenizer.json or vocab.txt")
    lines = _read_text(file).removesuffix("\n").split("\n")
    vocab = {token: number for number, token in enumerate(lines)}
    names = {role: content(config.get(f"{role}_token")) or CONVENTIONAL[0][role] for role in BERT}
    for token in names.values():
        if token not in vocab:
            raise InputError(f"{file}: no line '{token}'; accepted: a vocabulary of BERT's kind")
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=names["unk"]))
    backend.normalizer = _bert_normalizer(config, normalizers.BertNormalizer())
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{names['cls']} $A {names['sep']}",
        pair=f"{names['cls']} $A {names['sep']} $B:1 {names['sep']}:1",
        special_tokens=[(names[role], vocab[names[role]]) for role in ("cls", "sep")],
    )
    return backend


def _bert_normalizer(
    config: dict[str, Any], default: normalizers.BertNormalizer
) -> normalizers.BertNormalizer:
    """BERT's normalizer with the options that tokenizer_config.json names."""
    options = {theirs: getattr(default, theirs) for theirs in BERT_OPTIONS.values()}
    for ours, theirs in BERT_OPTIONS.items():
        if config.get(ours) is not None:
            options[theirs] = config[ours]
    return normalizers.BertNormalizer(clean_text=default.clean_text, **options)


def _completed(
    config: dict[str, Any], model_config: dict[str, Any], backend: tokenizers.Tokenizer
) -> dict[str, Any]:
    """The config with what old folders leave to be known of the family."""
    config = dict(config)
    named = {name for name in SPECIAL_TOKENS if config.get(name)}
    if isinstance(backend.model, models.WordPiece) or not named:
        found = _conventional(backend)
        config |= {name: token for name, token in found.items() if name not in named}
    if config.get("tokenizer_class") in (None, "TokenizersBackend"):
        config["tokenizer_class"] = "PreTrainedTokenizerFast"  # known to every transformers
    config["model_max_length"] = _model_max_length(config, model_config)
    if not config.get("model_input_names"):
        config["model_input_names"] = ["input_ids", "attention_mask"]
        if _has_segments(config, model_config):
            config["model_input_names"].insert(1, "token_type_ids")
    return config


def _conventional(backend: tokenizers.Tokenizer) -> dict[str, str]:
    """The special tokens of the family that the vocabulary looks like."""
    for roles in CONVENTIONAL:
        if backend.token_to_id(roles["unk"]) is not None:
            found = {role: t for role, t in roles.items() if backend.token_to_id(t) is not None}
            return {f"{role}_token": token for role, token in found.items()}
    return {}


def _model_max_length(config: dict[str, Any], model_config: dict[str, Any]) -> int:
    """The tokenizer's maximum, else as many tokens as the model has positions."""
    longest = config.get("model_max_length") or model_config.get("max_position_embeddings")
    return (
        int(longest) if isinstance(longest, (int, float)) and 0 < longest < UNLIMITED else UNLIMITED
    )


def _has_segments(config: dict[str, Any], model_config: dict[str, Any]) -> bool:
    """Whether the family has token_type_ids: its model says so best, then the tokenizer's class."""
    if "model_type" in model_config:
        segments = model_config.get("type_vocab_size")
        return isinstance(segments, int) and segments > 1
    return config["tokenizer_class"].startswith(SEGMENTED)


def _read_json(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    if not file.is_file():
        return {}
    text = _read_text(file)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{file}: found {type(found).__name__}; accepted: a JSON object")
    return found


def _read_text(file: Path) -> str:
    if (size := file.stat().st_size) > MAX_FILE_BYTES:
        raise InputError(f"{file}: found {size} bytes; accepted: at most {MAX_FILE_BYTES}")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 ({error.reason} at byte {error.start})") from error
    if not text.strip():
        raise InputError(f"{file}: the file is empty")
    return text
