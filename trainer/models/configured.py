"""ConfiguredModel: a model with any inputs, configured by a dataclass, that saves and reloads."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from trainer import hub
from trainer.checkpoint import files
from trainer.checkpoint.state_checks import check_weights
from trainer.errors import InputError, nearest
from trainer.foreign.json_values import parse_json
from trainer.stores.url import local_folder

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CONFIG, WEIGHTS = "config.json", "model.safetensors"
WRITTEN_BY_SAVING = ("architectures", "model_type")
"""Entries of config.json other than the fields of the dataclass."""


class ConfiguredModel(nn.Module):
    """A model whose inputs are not texts, such as an image classifier.

    Subclasses name a dataclass of their settings, build the module from it in `__init__(config)`,
    and write `forward`, whose arguments are the columns of a batch. Jobs, checkpoints and resuming
    work as for every other model; sharding and LoRA are not supported.
    """

    task: ClassVar[str]
    """The name of the head in recipes."""
    kinds: ClassVar[tuple[str, ...]] = ()
    """The kinds of bodies that the head fits: none, since the model includes its body."""
    Config: ClassVar[type["DataclassInstance"]]
    """A dataclass whose fields all have defaults; its `__post_init__` refuses invalid settings."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.fresh: list[str] = []
        """The modules whose weights were missing from the files."""

    @classmethod
    def from_config(cls, entries: Mapping[str, Any]) -> Self:
        """A new model with random weights, drawn from torch's global generator.

        Raises InputError for an unknown entry or a wrong type.
        """
        return cls(_settings(cls.Config, entries, "model.config"))

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        token: str | None = None,
        **overrides: Any,
    ) -> Self:
        """The model that `save_pretrained` wrote to a folder or the hub, in eval mode.

        `overrides` replace entries of config.json. Raises InputError for invalid files or
        overrides.
        """
        folder = hub.find(
            str(path),
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
            what="model.path",
        )
        entries = _read_config(folder / CONFIG)
        saved = entries.get("architectures")
        if saved != [cls.__name__]:
            found = f"found {saved}; accepted: [{cls.__name__}]"
            raise InputError(f"{folder / CONFIG}: architectures: {found}")
        kept = {name: value for name, value in entries.items() if name not in WRITTEN_BY_SAVING}
        model = cls(_settings(cls.Config, {**kept, **overrides}, str(folder / CONFIG)))
        load_weights(folder / WEIGHTS, model)
        return model.eval()

    def save_pretrained(
        self, directory: str | Path, state_dict: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write config.json and model.safetensors."""
        folder = local_folder(directory)
        files.make_folder(folder)
        files.write_json(folder / CONFIG, self.config_entries())
        weights = self.state_dict() if state_dict is None else dict(state_dict)
        files.write_tensors(folder / WEIGHTS, weights)

    def load_weights(self, directory: str | Path) -> None:
        """Load, unchanged, the weights that a model with the same config saved."""
        load_weights(Path(directory) / WEIGHTS, self)

    def config_entries(self) -> dict[str, Any]:
        """The contents of config.json."""
        named = {"architectures": [type(self).__name__], "model_type": self.task}
        return {**named, **asdict(self.config)}


def load_weights(path: Path, model: nn.Module) -> None:
    """Load a file's weights, unchanged, into a model whose tensors have the same shapes.

    Raises InputError if names, shapes or dtypes differ, or if values are not finite.
    """
    try:
        with safe_open(path, "pt") as saved:
            state = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: is truncated or not a safetensors file ({error})") from None
    check_weights(path, state, model.state_dict())
    with torch.no_grad():
        model.load_state_dict(state, strict=True)


def _settings(
    kind: type["DataclassInstance"], entries: Mapping[str, Any], where: str
) -> "DataclassInstance":
    """The dataclass with these entries, each of which must have the type of its default."""
    usual = kind()
    known = [field.name for field in fields(kind)]
    given: dict[str, Any] = {}
    for name, value in entries.items():
        if name not in known:
            raise InputError(
                f"{where}: no entry '{name}'; accepted: {', '.join(known)}{nearest(name, known)}"
            )
        given[name] = _like(getattr(usual, name), value, f"{where}: {name}")
    return kind(**given)


def _like(default: object, value: object, where: str) -> object:
    """Return `value` in the type of `default`; None: in any type.

    As JSON has neither tuples nor dataclasses, lists and mappings are accepted for these.
    """
    wanted = type(default)
    if is_dataclass(default) and isinstance(value, Mapping):
        return _settings(cast("type[DataclassInstance]", wanted), value, where)
    if wanted is tuple and isinstance(value, (list, tuple)):
        return _in_tuples(value)
    if default is not None and type(value) is not wanted:
        if wanted is float and type(value) is int:
            return float(value)
        found = f"found {str(value)[:40]!r}; accepted: {wanted.__name__}"
        raise InputError(f"{where}: {found}")
    return value


def _in_tuples(value: object) -> object:
    return tuple(map(_in_tuples, value)) if isinstance(value, (list, tuple)) else value


def _read_config(file: Path) -> dict[str, Any]:
    try:
        value = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{file}: found no object; accepted: a JSON object")
    return value
