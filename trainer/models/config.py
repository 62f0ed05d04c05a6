"""ModelConfig: config.json as checked attributes, saved so that transformers can read it."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from trainer import hub
from trainer.errors import InputError, nearest
from trainer.foreign.json_values import parse_json
from trainer.foreign.numbers import is_number
from trainer.models.blocks.activations import ACTIVATIONS
from trainer.models.config_names import ConfigNames
from trainer.models.family_config import FamilyConfig, find_family_config, native_families
from trainer.models.formats.config_entries import COMMON, NO_EFFECT, REQUIRED, TOKEN_IDS

log = logging.getLogger("trainer")

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
UNSAFE = ("auto_map", "trust_remote_code", "_attn_implementation_internal")
"""Entries that point at code outside this package."""

NULLABLE = (
    *TOKEN_IDS,
    *("num_key_value_heads", "sliding_window"),
)
"""Entries that may be null although their default is a number."""

LARGEST = {
    "num_hidden_layers": 1000,
    "num_attention_heads": 4096,
    "num_key_value_heads": 4096,
    "head_dim": 1 << 14,
    "hidden_size": 1 << 17,
    "embedding_size": 1 << 17,
    "intermediate_size": 1 << 20,
    "vocab_size": 1 << 24,
    "max_position_embeddings": 1 << 24,
    "num_experts": 1 << 12,
    "num_experts_per_tok": 1 << 12,
    "moe_intermediate_size": 1 << 20,
    "decoder_sparse_step": 1000,
    "type_vocab_size": 1 << 16,
    "num_decoder_layers": 1000,
    "num_hidden_groups": 1000,
    "inner_group_num": 1000,
    "decoder_attention_heads": 4096,
    "decoder_intermediate_size": 1 << 20,
    "relative_attention_num_buckets": 1 << 16,
    "relative_attention_max_distance": 1 << 24,
}
"""The largest accepted sizes; larger ones are mistakes or attacks that would crash the process."""


class ModelConfig(ConfigNames):
    """The entries of a config.json and its family's defaults, as attributes to read and set.

    `id2label`, `label2id` and `num_labels` always agree. Entries that the family does not have are
    kept for saving and have no effect; `unused` lists them. An entry can be read and set under the
    name that the family gives it (DistilBERT's `dim`) and under its name in the shared blocks
    (`hidden_size`).
    """

    family: FamilyConfig
    id2label: dict[int, str]

    def __init__(
        self,
        entries: Mapping[str, Any],
        overrides: Mapping[str, Any] | None = None,
        where: str = "config.json",
    ) -> None:
        """`entries` come from a file, `overrides` from the user; keys of `overrides` must be known.

        Entries that `overrides` replace are not checked. Raises InputError; messages about
        `entries` start with `where`.
        """
        entries = _without_own_code(entries, where)
        overrides = dict(overrides or {})
        attributes = self.__dict__
        attributes["family"] = find_family_config(entries.get("model_type"))
        renamed = attributes["family"].renamed
        entries = {renamed.get(name, name): value for name, value in entries.items()}
        labels_replaced = bool({"id2label", "label2id"} & overrides.keys())
        attributes["id2label"] = _label_names({} if labels_replaced else entries, where)
        attributes["_entries"] = {name: entries[name] for name in entries if name not in _LABELS}
        for name in TOKEN_IDS:
            if self._entries.get(name) == -1:
                self._entries[name] = None
        try:
            self._check_all(where)
        except InputError:
            if not overrides:
                raise
        else:
            where = "model.config"
        self._override(overrides, where)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        token: str | None = None,
        subfolder: str = "",
        **overrides: object,
    ) -> Self:
        """Read the config of a local directory, a hub id or a pkg:// path; apply the overrides."""
        folder = hub.find(
            str(path),
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
            subfolder=subfolder,
            weights=None,
        )
        config = cls(read_config(folder), overrides, where=str(folder / "config.json"))
        config.warn_of_unused(folder)
        return config

    @property
    def unused(self) -> list[str]:
        """Entries of the file that this family does not have, unless their values are empty."""
        known = {*self._known, *self.family.no_effect, *NO_EFFECT}
        return sorted(
            name
            for name, value in self._entries.items()
            if name not in known and value not in (None, {}, [], "")
        )

    def warn_of_unused(self, folder: Path) -> None:
        """Log the entries of the file that are not used."""
        if names := self.unused:
            kind = self.family.model_type
            log.warning(
                "%s: config.json: ignoring entries that %s models do not have: %s",
                folder,
                kind,
                ", ".join(names),
            )

    @property
    def num_labels(self) -> int:
        """The number of labels in id2label."""
        return len(self.id2label)

    @property
    def label2id(self) -> dict[str, int]:
        """The inverse of id2label."""
        return _inverse(self.id2label)

    def known(self, name: str) -> Any:
        """The value of an entry, or None if this family has no such entry."""
        family = self.family
        entry = family.synonyms.get(name, name)
        tables = (family.defaults, family.optional, family.constants, COMMON)
        return getattr(self, name) if any(entry in table for table in tables) else None

    def to_dict(self) -> dict[str, Any]:
        """The contents of config.json: defaults that are not None, own entries, and labels."""
        names = {str(index): name for index, name in self.id2label.items()}
        labels = {"id2label": names, "label2id": self.label2id}
        set_defaults = {k: v for k, v in self.family.defaults.items() if v is not None}
        return {**set_defaults, **self._entries, **labels}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "family" not in self.__dict__:
            raise AttributeError(name)
        entry = self.family.synonyms.get(name, name)
        family = self.family
        # An entry that the family does not have must have no effect, even if shared code reads it.
        fixed = {} if entry in family.defaults else family.constants
        for source in (fixed, self._entries, family.defaults, family.optional, COMMON, REQUIRED):
            if entry in source:
                return source[entry]
        raise AttributeError(f"a config of model_type {self.model_type!r} has no {name!r}")

    def __setattr__(self, name: str, value: object) -> None:
        if name == "_attn_implementation":
            object.__setattr__(self, name, value)
        else:
            self._override({name: value}, "model.config")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ModelConfig({json.dumps(self.to_dict(), indent=2, default=str)})"

    @property
    def _known(self) -> set[str]:
        """Every entry that has an effect or is checked."""
        family = self.family
        tables = (family.defaults, family.optional, family.required, COMMON, REQUIRED)
        return {name for table in tables for name in table}

    def _override(self, overrides: dict[str, Any], where: str) -> None:
        """Set all entries, or none if any is invalid; error messages start with `where`."""
        entries, labels = dict(self._entries), self.id2label
        try:
            self._set(overrides)
            self._check_all(where)
        except InputError:
            self.__dict__.update(_entries=entries, id2label=labels)
            raise

    def _set(self, overrides: dict[str, Any]) -> None:
        labels = {name: overrides.pop(name) for name in _LABELS if name in overrides}
        for name, value in overrides.items():
            self._check_known(name)
            entry = self.family.synonyms.get(name, name)
            default = self.family.defaults.get(entry, COMMON.get(entry))
            self._entries[entry] = _typed(f"model.config.{name}", entry, value, default)
        if labels and labels != {"num_labels": self.num_labels}:
            names = _label_names(labels, "model.config")
            if labels.get("label2id", inverse := _inverse(names)) not in (None, inverse):
                raise InputError("model.config: label2id and id2label contradict each other")
            self.__dict__["id2label"] = names

    def _check_known(self, name: str) -> None:
        without_effect = {*self.family.no_effect, *NO_EFFECT} - {"model_type"}
        known = {*self._known, *self.family.synonyms, *without_effect}
        if name in (*UNSAFE, "model_type") or name not in known:
            hint = nearest(name, known)
            raise InputError(
                f"model.config: found the entry '{name}', which a config of model_type "
                f"{self.model_type!r} does not have{hint}"
            )

    def _check_all(self, where: str) -> None:
        for name, default in self.family.defaults.items():
            if name in self._entries:
                value = self._entries[name]
                self._entries[name] = _typed(f"{where}: {name}", name, value, default)
        for name, default in {**COMMON, **self.family.optional}.items():
            value = self._entries.get(name)
            if value is not None and name not in self.family.defaults:
                _typed(f"{where}: {name}", name, value, default)
        _check_quantization(self, where)
        _check_sizes(self, where)
        _check_choices(self, where)


def _without_own_code(entries: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Return the entries without those of UNSAFE, which point at code.

    Raises InputError unless a family of this package lists them in `no_effect`.
    """
    unsafe = [name for name in UNSAFE if name in entries]
    native = entries.get("model_type") in native_families() if unsafe else False
    known = find_family_config(entries["model_type"]).no_effect if native else frozenset()
    if refused := [name for name in unsafe if name not in known]:
        raise InputError(
            f"{where}: found {refused[0]}, which points at remote code; accepted: a model that "
            "this package implements"
        )
    return {name: value for name, value in entries.items() if name not in unsafe}


def read_config(folder: Path) -> dict[str, Any]:
    """The entries of config.json in `folder`, which may also be a JSON file or a GGUF file.

    Raises InputError if the file is missing or does not hold a JSON object.
    """
    if folder.suffix == ".gguf" and folder.is_file():
        from trainer.interop.gguf_config import read_config as read_gguf

        return read_gguf(folder)
    file = folder if folder.suffix == ".json" else folder / "config.json"
    if not file.is_file():
        raise InputError(f"{folder}: has no config.json; accepted: a model's directory")
    try:
        entries = parse_json(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file}: is not valid JSON ({reason})") from None
    if not isinstance(entries, dict):
        raise InputError(f"{file}: found {type(entries).__name__}; accepted: a JSON object")
    return entries


def config_file(place: Path) -> str:
    """The path of the file that `read_config` reads, for error messages."""
    return str(place / "config.json" if place.is_dir() else place)


def saved_labels(entries: Mapping[str, Any]) -> dict[int, str] | None:
    """id2label from the entries of a file, or None if they hold no valid labels."""
    try:
        return _label_names(entries, "config.json")
    except InputError:
        return None


_LABELS = ("id2label", "label2id", "num_labels")


def _label_names(entries: Mapping[str, Any], where: str) -> dict[int, str]:
    """Return id2label from `_LABELS`: from id2label, else label2id, else num_labels.

    If num_labels is given too, it must be the number of names.
    """
    count = entries.get("num_labels")
    names = _checked_names(entries.get("id2label"), f"{where}: id2label")
    if names is None and entries.get("label2id") is not None:
        names = _names_of_numbers(entries["label2id"], f"{where}: label2id")
    if names is None:
        count = COMMON["num_labels"] if count is None else count
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 1 << 20:
            raise InputError(
                f"{where}: num_labels: found {count!r}; accepted: an integer of at least 1"
            )
        return {index: f"LABEL_{index}" for index in range(count)}
    if count is not None and count != len(names):
        raise InputError(f"{where}: num_labels is {count!r}, but id2label has {len(names)} names")
    return names


def _names_of_numbers(label2id: object, where: str) -> dict[int, str] | None:
    """Return id2label, the inverse of `label2id`, whose numbers must differ."""
    if not isinstance(label2id, Mapping):
        raise InputError(f"{where}: found {type(label2id).__name__}; accepted: a mapping")
    if not all(type(index) in (int, str) for index in label2id.values()):
        raise InputError(f"{where}: accepted: a number for each name")
    inverse = {index: name for name, index in label2id.items()}
    if len(inverse) < len(label2id):
        raise InputError(f"{where}: found the same number twice; accepted: distinct numbers")
    return _checked_names(inverse, where)


def _inverse(id2label: Mapping[int, str]) -> dict[str, int]:
    return {name: index for index, name in id2label.items()}


def _checked_names(id2label: Any, where: str) -> dict[int, str] | None:
    if id2label is None:
        return None
    if isinstance(id2label, (list, tuple)):
        id2label = dict(enumerate(id2label))
    _require_mapping(id2label, where)
    try:
        names = {int(index): str(name) for index, name in id2label.items()}
    except (TypeError, ValueError):
        names = {}
    if sorted(names) != list(range(len(id2label))) or not names:
        raise InputError(f"{where}: accepted: one name for each of the numbers 0, 1, 2, ...")
    if len(set(names.values())) < len(names):
        raise InputError(f"{where}: found the same name twice; accepted: distinct names")
    return {index: names[index] for index in range(len(names))}


def _require_mapping(value: object, where: str) -> None:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: found {type(value).__name__}; accepted: a mapping")


def _typed(where: str, name: str, value: object, default: object) -> Any:
    """Return `value`, which must have the type of `default`.

    If `default` is a float, an int is converted. If `default` is None, any type is accepted.
    """
    if default is None or (value is None and name in NULLABLE):
        return value
    if name == "eos_token_id" and isinstance(value, list) and all(type(x) is int for x in value):
        return value  # a list: any of these ids ends a text
    if isinstance(default, float) and isinstance(value, int) and is_number(value):
        value = float(value)
    if type(value) is not type(default):
        found = f"{value!r:.80} ({type(value).__name__})"
        raise InputError(f"{where}: found {found}; accepted: {type(default).__name__}")
    return value


def _check_sizes(config: ModelConfig, where: str) -> None:
    for name, largest in LARGEST.items():
        smallest = 0 if name == "type_vocab_size" else 1
        entry = config.family.synonyms.get(name, name)
        value = getattr(config, name) if entry in config.family.defaults else None
        if value is None:  # derived from other entries, or not an entry of the family
            continue
        if not isinstance(value, int) or not smallest <= value <= largest:
            accepted = f"{smallest} to {largest}"
            raise InputError(f"{where}: {entry}: found {value!r}; accepted: {accepted}")
    _check_heads(config, where)
    if (taken := config.known("num_experts_per_tok")) and taken > config.num_experts:
        accepted = f"1 to {config.num_experts}, the number of experts"
        raise InputError(f"{where}: num_experts_per_tok: found {taken}; accepted: {accepted}")
    _check_token_ids(config, where)


def _check_token_ids(config: ModelConfig, where: str) -> None:
    pad = config.pad_token_id
    if pad is None and config.family.positions_after_pad:
        raise InputError(
            f"{where}: pad_token_id: found None; accepted: an id, since positions start after it"
        )
    if pad is not None and not (isinstance(pad, int) and 0 <= pad < config.vocab_size):
        accepted = f"null, or an id below vocab_size ({config.vocab_size})"
        raise InputError(f"{where}: pad_token_id: found {pad!r}; accepted: {accepted}")
    ends, start = config.eos_token_id, config.bos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    for name, ids in {"eos_token_id": ends, "bos_token_id": [start]}.items():
        if wrong := [each for each in ids if each is not None and type(each) is not int]:
            raise InputError(f"{where}: {name}: found {wrong[0]!r:.60}; accepted: an id, or null")


def _check_heads(config: ModelConfig, where: str) -> None:
    heads, entries = config.num_attention_heads, config.family.defaults
    head_dim_entry = config.family.synonyms.get("head_dim", "head_dim")
    own_size = head_dim_entry in entries and config.head_dim is not None
    decoder_heads = [config.decoder_attention_heads] if "decoder_attention_heads" in entries else []
    for number in (heads, *decoder_heads):
        if not own_size and config.hidden_size % number:
            raise InputError(
                f"{where}: hidden size {config.hidden_size} is not divisible by the "
                f"{number} attention heads"
            )
    grouped = "num_key_value_heads" in entries and config.num_key_value_heads
    if grouped and heads % config.num_key_value_heads:
        raise InputError(
            f"{where}: num_key_value_heads: found {config.num_key_value_heads}; accepted: "
            f"a divisor of the {heads} attention heads"
        )


def _check_quantization(config: ModelConfig, where: str) -> None:
    found = config.quantization_config
    if found:
        method = found.get("quant_method") if isinstance(found, Mapping) else found
        raise InputError(
            f"{where}: quantization_config: found {method!r:.60}; accepted: unquantized weights in "
            "float32, bfloat16 or float16, which model.quantization can quantize to 4 or 8 bits"
        )


def _check_choices(config: ModelConfig, where: str) -> None:
    choices = {"hidden_act": tuple(ACTIVATIONS), "problem_type": (None, *PROBLEM_TYPES)}
    choices |= config.family.choices
    required = {**REQUIRED, **config.family.required}
    choices |= {name: (value,) for name, value in required.items()}
    for name, accepted in choices.items():
        value = getattr(config, name, None)
        if value not in accepted and not (value is None and name in required):
            entry = config.family.synonyms.get(name, name)
            names = ", ".join(str(choice) for choice in accepted)
            raise InputError(f"{where}: {entry}: found {value!r}; accepted: {names}")
    for name in (*config.family.defaults, *config.family.optional):
        value = getattr(config, name)
        probability = ("dropout" in name or "pdrop" in name) and value is not None
        if probability and not (is_number(value) and 0 <= value < 1):
            raise InputError(f"{where}: {name}: found {value!r}; accepted: at least 0 and below 1")
