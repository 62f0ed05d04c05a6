"""A tokenizer's folder: tokenizer.json or a vocabulary, and the configs of all ages beside it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, models

from trainer.errors import InputError, nearest
from trainer.tokenizer import layouts, trial
from trainer.tokenizer.lengths import SIDES, UNLIMITED
from trainer.tokenizer.special_tokens import (
    EXTRA,
    SPECIAL_TOKENS,
    check_ids,
    content,
    listed_by_id,
    other_special_tokens,
    register,
)
from trainer.tokenizer.text_files import read_json, read_text

logger = logging.getLogger("trainer")

KINDS: dict[str, Any] = {
    "model_max_length": int | float,
    "max_len": int | float,
    "model_input_names": list,
    "tokenizer_class": str,
    "added_tokens_decoder": dict,
    "additional_special_tokens": list,
    "extra_special_tokens": list | dict,
    "model_specific_special_tokens": dict,
    "chat_control_tokens": list,
    "do_lower_case": bool,
    "strip_accents": bool,
    "tokenize_chinese_chars": bool,
    "add_prefix_space": bool,
    "add_bos_token": bool,
    "add_eos_token": bool,
    "clean_up_tokenization_spaces": bool,
    "chat_template": str | dict,
}
"""What a config's entries must be; null stands for absent."""
OPTIONS = (
    ("model_max_length", "model_input_names", "padding_side", "truncation_side", "chat_template")
    + ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space")
    + ("clean_up_tokenization_spaces", *SPECIAL_TOKENS, *EXTRA)
)
"""What a caller may say otherwise than the files."""
SEGMENTED = ("albert", "bert", "convbert", "electra", "layoutlm", "lxmert", "mobilebert") + (
    "roformer",
    "squeezebert",
)
"""Families that tell a pair's texts apart by token_type_ids."""
OFFSET_POSITIONS = ("camembert", "data2vectext", "esm", "ibert", "longformer", "luke", "mpnet") + (
    "roberta",
    "robertaprelayernorm",
    "xlmroberta",
    "xlmrobertaxl",
    "xmod",
)
"""Families whose first token has the position pad_token_id + 1: RoBERTa's 514 hold 512 tokens."""


def read(
    folder: Path, options: Mapping[str, Any] | None = None
) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The tokenizer in a folder, and its config with what old folders leave unsaid.

    The config has special tokens, model_max_length, model_input_names and tokenizer_class;
    `options` go above what the files say. Raises InputError where there is no tokenizer, or where
    a file is not what its name says.
    """
    if folder.is_file():
        return _read_gguf(folder, _checked_options(options or {}))
    config = _read_config(folder) | _checked_options(options or {})
    model_config = read_json(folder / "config.json") or read_json(folder / "model_config.json")
    family = layouts.family(config, model_config)
    file = folder / "tokenizer.json"
    if file.is_file():
        backend = _read_backend(file)
        layouts.adapt(backend, config)
    else:
        backend = layouts.from_vocabulary(folder, config, family)
    if config.get("added_tokens_decoder") is None:
        config["added_tokens_decoder"] = _listed_apart(folder, config, backend)
    config = _completed(config, model_config, backend, family)
    register(backend, config)
    if not file.is_file():
        check_ids(backend, config["added_tokens_decoder"], str(folder))
    return backend, config


def _read_gguf(file: Path, options: dict[str, Any]) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    from trainer.interop.gguf_tokenizer import read_tokenizer

    backend, config = read_tokenizer(file)
    config = _completed(config | options, {}, backend, "")
    register(backend, config)
    return backend, config


def _read_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, complete where it lists added_tokens_decoder.

    If not, it is of the time when special_tokens_map.json went above it.
    """
    config = read_json(folder / "tokenizer_config.json")
    special = read_json(folder / "special_tokens_map.json")
    if config.get("added_tokens_decoder") is None:
        config |= {name: token for name, token in special.items() if token is not None}
    config["chat_template"] = _chat_template(folder, config.get("chat_template"))
    if wrong := _wrong_entry(config):
        raise InputError(f"{folder / 'tokenizer_config.json'}: {wrong}")
    return config


def _chat_template(folder: Path, listed: Any) -> Any:
    """The chat template, or several by name: files of their own go above what the config lists."""
    if isinstance(listed, list):
        entries = [entry for entry in listed if isinstance(entry, dict)]
        listed = {str(e.get("name")): e.get("template") for e in entries}
    named = {
        file.stem: read_text(file)
        for file in sorted(folder.glob("additional_chat_templates/*.jinja"))
    }
    if (file := folder / "chat_template.jinja").is_file():
        named["default"] = read_text(file)
    if list(named) == ["default"]:
        return named["default"]
    return named or listed


def _listed_apart(
    folder: Path, config: dict[str, Any], backend: tokenizers.Tokenizer
) -> dict[str, Any]:
    """added_tokens.json as an added_tokens_decoder, without what tokenizer.json tells better."""
    file = folder / "added_tokens.json"
    added, known = read_json(file), backend.get_added_tokens_decoder()
    for token, number in added.items():
        if not isinstance(number, int) or number < 0 or not token:
            raise InputError(f"{file}: {token!r:.40}: found {number!r:.40}; accepted: an id")
    special = [config.get(name) for name in SPECIAL_TOKENS] + other_special_tokens(config)
    listed = listed_by_id(added, map(content, special))
    return {number: token for number, token in listed.items() if int(number) not in known}


def _checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """A caller's options as the files would say them."""
    for name in options:
        if name not in OPTIONS:
            accepted = f"{', '.join(OPTIONS)}{nearest(name, OPTIONS)}"
            raise InputError(f"from_pretrained: found {name}; accepted: {accepted}")
    config = {name: _as_written(value) for name, value in options.items()}
    if wrong := _wrong_entry(config):
        raise InputError(f"from_pretrained: {wrong}")
    return config


def _as_written(value: Any) -> Any:
    if isinstance(value, AddedToken):
        return value.__getstate__()
    return [_as_written(item) for item in value] if isinstance(value, (list, tuple)) else value


def _wrong_entry(config: dict[str, Any]) -> str | None:
    """What is wrong with the first entry that is not what it must be."""
    for name, kind in KINDS.items():
        if config.get(name) is not None and not isinstance(config[name], kind):
            accepted = "a number" if name in ("model_max_length", "max_len") else _named(kind)
            return f"{name}: found {config[name]!r:.40}; accepted: {accepted}"
    for name in ("padding_side", "truncation_side"):
        if config.get(name) not in (None, *SIDES):
            return f"{name}: found '{config[name]}'; accepted: left, right"
    templates = config.get("chat_template")
    for name, template in templates.items() if isinstance(templates, dict) else ():
        if not isinstance(template, str):
            return f"chat_template: {name}: found {template!r:.40}; accepted: Jinja, a text"
    for number, token in (config.get("added_tokens_decoder") or {}).items():
        if not number.isdecimal() or not isinstance(token, dict) or not content(token):
            found = f"{number!r}: {token!r:.40}"
            return f"added_tokens_decoder: found {found}; accepted: an id and its token, an object"
    return None


def _named(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind)).replace(" | ", " or ")


def _read_backend(file: Path) -> tokenizers.Tokenizer:
    text = read_text(file)
    trial.check(file, text)
    try:
        backend = tokenizers.Tokenizer.from_str(text)
        # MiniLM's tokenizer.json pads every text to 128; both are the caller's to ask for.
        backend.no_padding()
        backend.no_truncation()
        # What the parts say of each other is only looked at in use: an unknown letter, a pair.
        backend.encode("\U0010ffff")
        backend.encode("", "")
        _without_dropout(backend, file)
    except BaseException as error:
        # The library raises plain Exceptions, and panics are not even that.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{file}: {error}; accepted: what `tokenizers` saves") from error
    return backend


def _without_dropout(backend: tokenizers.Tokenizer, file: Path) -> None:
    """Have a text always give the same ids: BPE's dropout draws from what no seed reaches."""
    model = backend.model
    if isinstance(model, models.BPE) and model.dropout:
        text = "%s: model.dropout %.3g is not applied: a text must always give the same ids"
        logger.warning(text, file, model.dropout)
        model.dropout = None


def _completed(
    config: dict[str, Any],
    model_config: dict[str, Any],
    backend: tokenizers.Tokenizer,
    family: str,
) -> dict[str, Any]:
    """The config with what old folders leave to be known of the family."""
    config = dict(config)
    named = {name for name in SPECIAL_TOKENS if config.get(name)}
    if family in layouts.MEMBERS or isinstance(backend.model, models.WordPiece) or not named:
        found = layouts.conventional(backend, family)
        config |= {name: token for name, token in found.items() if name not in named}
    config["model_max_length"] = _model_max_length(config, model_config)
    if not config.get("model_input_names"):
        config["model_input_names"] = ["input_ids", "attention_mask"]
        if _has_segments(family, model_config):
            config["model_input_names"].insert(1, "token_type_ids")
    if config.get("tokenizer_class") in (None, "TokenizersBackend"):
        config["tokenizer_class"] = "PreTrainedTokenizerFast"  # known to every transformers
    return config


def _model_max_length(config: dict[str, Any], model_config: dict[str, Any]) -> int:
    """The tokenizer's maximum, else as many tokens as the model has positions."""
    named = _length(config.get("model_max_length")) or _length(config.get("max_len"))
    positions = _length(model_config.get("max_position_embeddings"))
    positions = positions or _length(model_config.get("n_positions"))
    if positions and layouts.spelled(model_config.get("model_type")) in OFFSET_POSITIONS:
        pad = model_config.get("pad_token_id")
        positions -= (pad if isinstance(pad, int) else 1) + 1
        named = min(named or positions, positions)
    return named or positions or UNLIMITED


def _length(found: Any) -> int | None:
    """A number of tokens; None for what stands for no limit."""
    return int(found) if isinstance(found, (int, float)) and 0 < found < UNLIMITED else None


def _has_segments(family: str, model_config: dict[str, Any]) -> bool:
    """Whether the family has token_type_ids: its model says so best, then the tokenizer's class."""
    if "model_type" in model_config:
        segments = model_config.get("type_vocab_size")
        return isinstance(segments, int) and segments > 1
    return family in SEGMENTED
