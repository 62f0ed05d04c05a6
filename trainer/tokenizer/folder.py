"""Folder: reads a tokenizer from tokenizer.json or vocabulary files, with old or new configs."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, models

from trainer.errors import InputError, nearest
from trainer.foreign.numbers import decimal
from trainer.tokenizer import layouts, load_check
from trainer.tokenizer.lengths import SIDES, UNLIMITED
from trainer.tokenizer.native_calls import native_call
from trainer.tokenizer.sentencepiece_layouts import as_tokenizer_json, find_sentencepiece
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
    "split_special_tokens": bool,
    "pad_token_type_id": int,
    "chat_template": str | dict,
}
"""A config entry -> its type; null entries are treated as missing."""
OPTIONS = (
    ("model_max_length", "model_input_names", "padding_side", "truncation_side", "chat_template")
    + ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space")
    + ("split_special_tokens", "pad_token_type_id", "add_bos_token", "add_eos_token")
    + ("clean_up_tokenization_spaces", *SPECIAL_TOKENS, *EXTRA)
)
"""Config entries that a caller may override."""
SEGMENTED = ("albert", "bert", "convbert", "electra", "layoutlm", "lxmert", "mobilebert") + (
    "roformer",
    "squeezebert",
)
"""Families whose models have token_type_ids, which distinguish the two texts of a pair."""
OFFSET_POSITIONS = ("camembert", "data2vectext", "esm", "ibert", "longformer", "luke", "mpnet") + (
    "roberta",
    "robertaprelayernorm",
    "xlmroberta",
    "xlmrobertaxl",
    "xmod",
)
"""Families whose first token has the position pad_token_id + 1.

So RoBERTa, with 514 positions, accepts 512 tokens.
"""


def read(
    folder: Path, options: Mapping[str, Any] | None = None
) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The tokenizer in a folder, and its config.

    In the config, missing special tokens, model_max_length, model_input_names and tokenizer_class
    are replaced by defaults. `options` override the files. Raises InputError if there is no
    tokenizer, or if a file is malformed.
    """
    if folder.is_file():
        return _read_gguf(folder, _checked_options(options or {}))
    config = _read_config(folder) | _checked_options(options or {})
    model_config = read_json(folder / "config.json") or read_json(folder / "model_config.json")
    family = layouts.family(config, model_config)
    file = folder / "tokenizer.json"
    pieces = find_sentencepiece(folder)
    if file.is_file():
        backend = _read_backend(file, read_text(file))
        layouts.adapt(backend, config)
    elif pieces is not None:
        backend = _read_backend(pieces, as_tokenizer_json(pieces, config, family))
    else:
        backend = layouts.from_vocabulary(folder, config, family)
    if config.get("added_tokens_decoder") is None:
        config["added_tokens_decoder"] = _separately_added(folder, config, backend)
    config = _completed(config, model_config, backend, family)
    config |= _disabled_tokens(options or {})
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
    """The entries of tokenizer_config.json.

    A config without added_tokens_decoder was written by an old version of the hub's libraries. In
    these versions, special_tokens_map.json took precedence over tokenizer_config.json.
    """
    config = read_json(folder / "tokenizer_config.json")
    special = read_json(folder / "special_tokens_map.json")
    if config.get("added_tokens_decoder") is None:
        config |= {name: token for name, token in special.items() if token is not None}
    config["chat_template"] = _chat_template(folder, config.get("chat_template"))
    if wrong := _wrong_entry(config):
        raise InputError(f"{folder / 'tokenizer_config.json'}: {wrong}")
    return config


def _chat_template(folder: Path, listed: object) -> object:
    """The chat template, or {name: template} if there are several.

    Template files take precedence over `listed`, the entry of the config.
    """
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


def _separately_added(
    folder: Path, config: dict[str, Any], backend: tokenizers.Tokenizer
) -> dict[str, Any]:
    """The tokens of added_tokens.json, as an added_tokens_decoder.

    Tokens that the backend already has are left out. Raises InputError for an invalid entry.
    """
    file = folder / "added_tokens.json"
    added, known = read_json(file), backend.get_added_tokens_decoder()
    for token, number in added.items():
        if not isinstance(number, int) or number < 0 or not token:
            raise InputError(f"{file}: {token!r:.40}: found {number!r:.40}; accepted: an id")
    special = [config.get(name) for name in SPECIAL_TOKENS] + other_special_tokens(config)
    listed = listed_by_id(added, map(content, special))
    return {number: token for number, token in listed.items() if int(number) not in known}


def _checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's options as config entries. Raises InputError."""
    for name in options:
        if name not in OPTIONS:
            accepted = f"{', '.join(OPTIONS)}{nearest(name, OPTIONS)}"
            raise InputError(f"from_pretrained: found {name}; accepted: {accepted}")
    config = {name: _as_written(value) for name, value in options.items()}
    if wrong := _wrong_entry(config):
        raise InputError(f"from_pretrained: {wrong}")
    return config


def _disabled_tokens(options: Mapping[str, Any]) -> dict[str, None]:
    """The special tokens that the caller sets to None, which override the family's defaults."""
    return {name: None for name in SPECIAL_TOKENS if name in options and options[name] is None}


def _as_written(value: object) -> object:
    if isinstance(value, AddedToken):
        return value.__getstate__()
    return [_as_written(item) for item in value] if isinstance(value, (list, tuple)) else value


def _wrong_entry(config: dict[str, Any]) -> str | None:
    """The error message for the first invalid entry; None if all entries are valid."""
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
        if decimal(number) is None or not isinstance(token, dict) or not content(token):
            found = f"{number!r}: {token!r:.40}"
            return f"added_tokens_decoder: found {found}; accepted: an id and its token, an object"
    return None


def _named(kind: object) -> str:
    return str(getattr(kind, "__name__", kind)).replace(" | ", " or ")


def _read_backend(file: Path, text: str) -> tokenizers.Tokenizer:
    """The tokenizer for the text of a tokenizer.json, which was read or converted from `file`."""
    load_check.check(file, text)
    try:
        with native_call():
            backend = tokenizers.Tokenizer.from_str(text)
            # some files, such as MiniLM's, pad every text; in this package callers decide
            backend.no_padding()
            backend.no_truncation()
            # the library finds some errors only when an unknown character or a pair is encoded
            backend.encode("\U0010ffff")
            backend.encode("", "")
        _without_dropout(backend, file)
    except Exception as error:  # the library raises plain Exceptions
        raise InputError(f"{file}: {error}; accepted: a file that `tokenizers` saved") from error
    return backend


def _without_dropout(backend: tokenizers.Tokenizer, file: Path) -> None:
    """Disable BPE dropout: ids must be reproducible, but its random generator cannot be seeded."""
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
    """The config, with missing entries set to the family's defaults."""
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
        # all versions of transformers have this class
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    return config


def _model_max_length(config: dict[str, Any], model_config: dict[str, Any]) -> int:
    """The maximum length in the tokenizer's config, else the model's number of positions.

    For families in OFFSET_POSITIONS, it is the smaller of the two.
    """
    named = _length(config.get("model_max_length")) or _length(config.get("max_len"))
    positions = _length(model_config.get("max_position_embeddings"))
    positions = positions or _length(model_config.get("n_positions"))
    if positions and layouts.spelled(model_config.get("model_type")) in OFFSET_POSITIONS:
        pad = model_config.get("pad_token_id")
        positions -= (pad if isinstance(pad, int) else 1) + 1
        named = min(named or positions, positions)
    return named or positions or UNLIMITED


def _length(found: object) -> int | None:
    """A maximum number of tokens; None for values that mean no limit."""
    return int(found) if isinstance(found, (int, float)) and 0 < found < UNLIMITED else None


def _has_segments(family: str, model_config: dict[str, Any]) -> bool:
    """Whether the model has token_type_ids, from the model's config or, without one, the family."""
    if "model_type" in model_config:
        segments = model_config.get("type_vocab_size")
        return isinstance(segments, int) and segments > 1
    return family in SEGMENTED
