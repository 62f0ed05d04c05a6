"""adapter_config.json, PEFT's description of an adapter: read and checked."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.foreign_json import parse_json
from trainer.foreign_numbers import is_number

FILE = "adapter_config.json"
OTHER_KINDS = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "layer_replication"),
    *("target_parameters", "alora_invocation_tokens", "arrow_config", "velora_config"),
    *("monteclora_config", "kasa_config", "megatron_config"),
)
"""Entries of adapter_config.json that make other sums than LoRA's."""
NO_EFFECT = frozenset(
    {
        # what was adapted is told by the tensors
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("modules_to_save", "ensure_weight_tying", "fan_in_fan_out", "task_type", "auto_mapping"),
        # how the training began, or was to go on
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config"),
        *("inference_mode", "peft_version", "qalora_group_size", "megatron_core"),
    }
)
"""Entries that say nothing about what a saved adapter computes."""
BEGINNINGS = (True, False, "gaussian", "orthogonal", "eva", "mica")
"""Values of init_lora_weights that leave the base as it is; PiSSA's and OLoRA's change it."""
MAX_NUMBER = 1 << 20
"""Of an alpha or a rank, either sign: with more, outputs lose all precision or overflow."""
BIASES = ("none", "lora_only", "all")
READ = frozenset(
    {
        *("peft_type", "base_model_name_or_path", "revision", "r", "lora_alpha", "lora_dropout"),
        *("use_rslora", "rank_pattern", "alpha_pattern", "bias", "init_lora_weights"),
        *("trainable_token_indices",),
    }
)


@dataclass(frozen=True)
class AdapterConfig:
    """What adapter_config.json says."""

    file: Path
    base: str
    """The path of the model that it adapts"""
    revision: str | None
    rank: int
    alpha: float
    rslora: bool
    """Whether outputs are divided by the root of the rank (Kalajdzievski, 2023)"""
    dropout: float
    bias: str = "none"
    ranks: Mapping[str, float] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    """Patterns of the hub's names of layers -> their own rank and alpha"""
    tokens: tuple[int, ...] | Mapping[str, tuple[int, ...]] = ()
    """Tokens whose embeddings are trained, of one module or by its name"""

    def size_of(self, layer: str) -> tuple[int, float]:
        """The rank of a layer, by the hub's name, and what its output is multiplied by."""
        rank = int(_matching(self.ranks, layer, self.rank))
        alpha = _matching(self.alphas, layer, self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.rslora else rank)


def read_adapter_config(file: Path) -> AdapterConfig:
    """The checked file. Raises InputError for what is no plain LoRA and for unknown entries."""
    try:
        config = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise InputError(f"{file}: accepted: a JSON object with the peft_type LORA")
    _refuse_other_kinds(config, file)
    dropout = _number(config, "lora_dropout", 0.0, file)
    if not 0 <= dropout < 1:
        raise InputError(f"{file}: lora_dropout: found {dropout}; accepted: 0 to below 1")
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base or not isinstance(revision, str | None):
        accepted = "base_model_name_or_path, and perhaps revision: texts"
        raise InputError(f"{file}: names no model that it adapts; accepted: {accepted}")
    return AdapterConfig(
        file=file,
        base=base,
        revision=revision,
        rank=_rank(_number(config, "r", 8, file), "r", file),
        alpha=_number(config, "lora_alpha", 8, file),
        rslora=bool(config.get("use_rslora")),
        dropout=dropout,
        bias=str(config.get("bias", "none")),
        ranks={n: _rank(v, n, file) for n, v in _patterns(config, "rank_pattern", file).items()},
        alphas=_patterns(config, "alpha_pattern", file),
        tokens=_tokens(config.get("trainable_token_indices"), file),
    )


def _refuse_other_kinds(config: dict[str, Any], file: Path) -> None:
    for name in OTHER_KINDS:
        if config.get(name):
            raise InputError(f"{file}: {name}: found {config[name]!r:.40}; accepted: plain LoRA")
    if (found := config.get("init_lora_weights", True)) not in BEGINNINGS:
        accepted = ", ".join(json.dumps(each).strip('"') for each in BEGINNINGS)
        raise InputError(f"{file}: init_lora_weights: found {found!r:.40}; accepted: {accepted}")
    if (found := config.get("bias", "none")) not in BIASES:
        raise InputError(f"{file}: bias: found {found!r:.40}; accepted: {', '.join(BIASES)}")
    for name, value in config.items():
        known = name in READ or name in NO_EFFECT or name in OTHER_KINDS
        if not known and value not in (None, False, {}, [], ""):
            raise InputError(
                f"{file}: {name}: found {value!r:.40}, an entry that is not known here; accepted: "
                "plain LoRA"
            )


def _matching(patterns: Mapping[str, float], layer: str, default: float) -> float:
    """The value of the first pattern that is the layer's name, or an end of it (as in PEFT)."""
    for pattern, value in patterns.items():
        if _is_match(pattern, layer):
            return value
    return default


def _is_match(pattern: str, layer: str) -> bool:
    """Whether a pattern is the whole name of a layer, or an end of it after a dot.

    By Arrow's RE2, whose time is linear: a pattern of a stranger may backtrack for ever in `re`.
    Raises pyarrow.ArrowInvalid for what RE2 does not know: groups looked back at or ahead.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.match_substring_regex(pa.array([layer]), rf"^(?:(?:.*\.)?(?:{pattern}))$")
    return bool(found[0].as_py())


def _patterns(config: dict[str, Any], name: str, file: Path) -> dict[str, float]:
    import pyarrow as pa

    found = config.get(name) or {}
    if not isinstance(found, Mapping):
        raise InputError(f"{file}: {name}: found {found!r:.40}; accepted: numbers by pattern")
    for pattern in found:
        try:
            _is_match(pattern, "")
        except (pa.ArrowException, UnicodeError) as error:
            raise InputError(f"{file}: {name}: '{pattern:.80}': {error}") from None
    return {pattern: _number(dict(found), pattern, 0, file) for pattern in found}


def _tokens(found: Any, file: Path) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
    listed = found.values() if isinstance(found, Mapping) else [found or []]
    for ids in listed:
        if not isinstance(ids, list) or not all(type(i) is int and i >= 0 for i in ids):
            raise InputError(
                f"{file}: trainable_token_indices: found {found!r:.40}; accepted: ids of tokens, "
                "or such lists by the names of modules"
            )
    if isinstance(found, Mapping):
        return {str(name): tuple(ids) for name, ids in found.items()}
    return tuple(found or ())


def _rank(value: float, name: str, file: Path) -> int:
    if value != int(value) or value < 1:
        raise InputError(f"{file}: {name}: found {value}; accepted: a whole number from 1")
    return int(value)


def _number(config: dict[str, Any], name: str, default: float, file: Path) -> float:
    value = config.get(name, default)
    if not is_number(value) or abs(value) > MAX_NUMBER:
        accepted = f"accepted: a number, at most {MAX_NUMBER:,}"
        raise InputError(f"{file}: {name}: found {value!r:.40}; {accepted}")
    return value
