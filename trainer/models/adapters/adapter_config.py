"""Reading and checking adapter_config.json, PEFT's description of an adapter."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.foreign.json_values import parse_json
from trainer.foreign.numbers import is_number
from trainer.models.adapters.adapter import divisor

FILE = "adapter_config.json"
OTHER_KINDS = (
    *("use_qalora", "use_bdlora", "lora_bias", "layer_replication"),
    *("alora_invocation_tokens", "arrow_config", "velora_config"),
    *("monteclora_config", "kasa_config", "megatron_config"),
)
"""Entries of adapter_config.json that select methods other than LoRA and DoRA."""
NO_EFFECT = frozenset(
    {
        # the tensors show which layers are adapted
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("modules_to_save", "ensure_weight_tying", "fan_in_fan_out", "task_type", "auto_mapping"),
        # how training was started or continued
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config"),
        *("inference_mode", "peft_version", "qalora_group_size", "megatron_core"),
    }
)
"""Entries that do not affect the outputs of a saved adapter."""
BASE_PRESERVING_INITS = (True, False, "gaussian", "orthogonal", "eva", "mica")
"""Values of init_lora_weights that do not change the base weights, unlike PiSSA and OLoRA."""
MAX_NUMBER = 1 << 20
"""The largest accepted number, such as a rank; with larger ones, outputs would lose precision."""
BIASES = ("none", "lora_only", "all")
KINDS = ("LORA", "IA3")
READ_OF_IA3 = frozenset(
    {"peft_type", "base_model_name_or_path", "revision", "feedforward_modules", "init_ia3_weights"}
)
"""Accepted entries of IA3; feedforward_modules is not read: the tensors' shapes imply it."""
READ = frozenset(
    {
        *("peft_type", "base_model_name_or_path", "revision", "r", "lora_alpha", "lora_dropout"),
        *("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "bias", "init_lora_weights"),
        *("trainable_token_indices", "target_parameters"),
    }
)
"""Accepted entries of LoRA and DoRA."""


@dataclass(frozen=True)
class AdapterConfig:
    """The contents of adapter_config.json."""

    file: Path
    base: str
    """The path of the base model; empty for a model that was not loaded from files"""
    revision: str | None
    rank: int
    alpha: float
    rslora: bool
    """Whether alpha is divided by the square root of the rank (Kalajdzievski, 2023)"""
    dora: bool
    """Whether the norm of each output's weights is also trained (Liu et al., 2024)"""
    dropout: float
    kind: str = "LORA"
    """LORA or IA3"""
    bias: str = "none"
    ranks: Mapping[str, float] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    """Regular expression for the hub's layer names -> the rank (or alpha) of matching layers"""
    tokens: tuple[int, ...] | Mapping[str, tuple[int, ...]] = ()
    """Ids of the tokens whose rows are trained: the same for all modules, or by module name"""
    parameters: tuple[str, ...] = ()
    """The hub names (or suffixes of the names) of expert weights that have adapters"""

    def tokens_of(self, module: str) -> tuple[int, ...]:
        """The ids of the tokens whose rows are trained in the module with this hub name."""
        if not isinstance(self.tokens, Mapping):
            return self.tokens
        ends = [ids for name, ids in self.tokens.items() if f".{module}".endswith(f".{name}")]
        return ends[0] if ends else ()

    def size_of(self, layer: str) -> tuple[int, float]:
        """The rank, and the scaling of the adapter's output, for the layer with this hub name."""
        rank = int(_matching(self.ranks, layer, self.rank))
        alpha = _matching(self.alphas, layer, self.alpha)
        return rank, alpha / divisor(rank, self.rslora)


def read_adapter_config(file: Path) -> AdapterConfig:
    """Read and check the file.

    Raises InputError for methods other than LoRA, DoRA and IA3, and for unknown entries.
    """
    try:
        config = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(config, dict):
        raise InputError(f"{file}: found {type(config).__name__}; accepted: a JSON object")
    if (kind := config.get("peft_type")) not in KINDS:
        raise InputError(f"{file}: peft_type: found {kind!r:.40}; accepted: {', '.join(KINDS)}")
    if kind == "IA3":
        base, revision = _base(config, file)
        _refuse_unknown(config, file, READ_OF_IA3, "those of IA3")
        return AdapterConfig(file, base, revision, 0, 0.0, False, False, 0.0, kind)
    _refuse_other_kinds(config, file)
    dropout = _number(config, "lora_dropout", 0.0, file)
    if not 0 <= dropout < 1:
        raise InputError(f"{file}: lora_dropout: found {dropout}; accepted: at least 0 and below 1")
    base, revision = _base(config, file)
    return AdapterConfig(
        file=file,
        base=base,
        revision=revision,
        rank=_rank(_number(config, "r", 8, file), "r", file),
        alpha=_number(config, "lora_alpha", 8, file),
        rslora=bool(config.get("use_rslora")),
        dora=bool(config.get("use_dora")),
        dropout=dropout,
        bias=str(config.get("bias", "none")),
        ranks={n: _rank(v, n, file) for n, v in _patterns(config, "rank_pattern", file).items()},
        alphas=_patterns(config, "alpha_pattern", file),
        tokens=_tokens(config.get("trainable_token_indices"), file),
        parameters=_names(config, "target_parameters", file),
    )


def _base(config: dict[str, Any], file: Path) -> tuple[str, str | None]:
    """The path and revision of the base model."""
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str | None) or not isinstance(revision, str | None):
        raise no_base(file)
    return base or "", revision


def no_base(file: Path) -> InputError:
    """The error for a file that does not say which model its adapters belong to."""
    accepted = "base_model_name_or_path and optionally revision, as strings"
    return InputError(f"{file}: names no base model; accepted: {accepted}")


def _refuse_unknown(
    config: dict[str, Any], file: Path, known: Collection[str], accepted: str
) -> None:
    """Refuse entries with a non-empty value that are neither `known` nor without effect."""
    for name, value in config.items():
        plain = name in known or name in NO_EFFECT
        if not plain and value not in (None, False, {}, [], ""):
            found = f"{name}: found {value!r:.40}, an unknown entry"
            raise InputError(f"{file}: {found}; accepted: {accepted}")


def _refuse_other_kinds(config: dict[str, Any], file: Path) -> None:
    for name in OTHER_KINDS:
        if config.get(name):
            raise InputError(f"{file}: {name}: found {config[name]!r:.40}; accepted: plain LoRA")
    if (found := config.get("init_lora_weights", True)) not in BASE_PRESERVING_INITS:
        accepted = ", ".join(json.dumps(each).strip('"') for each in BASE_PRESERVING_INITS)
        raise InputError(f"{file}: init_lora_weights: found {found!r:.40}; accepted: {accepted}")
    if (found := config.get("bias", "none")) not in BIASES:
        raise InputError(f"{file}: bias: found {found!r:.40}; accepted: {', '.join(BIASES)}")
    _refuse_unknown(config, file, READ.union(OTHER_KINDS), "plain LoRA")


def _matching(patterns: Mapping[str, float], layer: str, default: float) -> float:
    """The value of the first pattern that matches a layer, as in PEFT; `default` without one."""
    for pattern, value in patterns.items():
        if _is_match(pattern, layer):
            return value
    return default


def _is_match(pattern: str, layer: str) -> bool:
    """Whether a pattern matches the whole name of a layer, or a suffix of it after a dot.

    Uses Arrow's RE2, which runs in linear time; with `re`, an untrusted pattern could take forever.
    Raises pyarrow.ArrowInvalid for syntax that RE2 does not support: backreferences and lookaround.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.match_substring_regex(pa.array([layer]), rf"^(?:(?:.*\.)?(?:{pattern}))$")
    return bool(found[0].as_py())


def _patterns(config: dict[str, Any], name: str, file: Path) -> dict[str, float]:
    import pyarrow as pa

    found = config.get(name) or {}
    if not isinstance(found, Mapping):
        raise InputError(
            f"{file}: {name}: found {found!r:.40}; accepted: a mapping of patterns to numbers"
        )
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
                f"{file}: trainable_token_indices: found {found!r:.40}; accepted: a list of token "
                "ids, or a mapping of module names to such lists"
            )
    if isinstance(found, Mapping):
        return {str(name): tuple(ids) for name, ids in found.items()}
    return tuple(found or ())


def _names(config: dict[str, Any], name: str, file: Path) -> tuple[str, ...]:
    found = config.get(name) or []
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise InputError(f"{file}: {name}: found {found!r:.40}; accepted: a list of names")
    return tuple(found)


def _rank(value: float, name: str, file: Path) -> int:
    if value != int(value) or value < 1:
        raise InputError(f"{file}: {name}: found {value}; accepted: a positive integer")
    return int(value)


def _number(config: dict[str, Any], name: str, default: float, file: Path) -> float:
    value = config.get(name, default)
    if not is_number(value) or abs(value) > MAX_NUMBER:
        accepted = f"accepted: a number, at most {MAX_NUMBER:,}"
        raise InputError(f"{file}: {name}: found {value!r:.40}; {accepted}")
    return value
