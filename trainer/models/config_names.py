"""ConfigNames: the config attributes that transformers' users and its ecosystem expect."""

import json
import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

from trainer.checkpoint import files
from trainer.errors import InputError
from trainer.stores.url import local_folder

log = logging.getLogger("trainer")

ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")


class ConfigNames(ABC):
    """Attributes and methods of transformers' configs, computed from `ModelConfig`'s contents."""

    sub_configs: ClassVar[dict[str, Any]] = {}
    """Nested configs: none, since no model here is composed of several."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The contents of config.json."""

    def to_diff_dict(self) -> dict[str, Any]:
        """The contents of config.json with all defaults, since later versions may change them."""
        return self.to_dict()

    def to_json_string(self, use_diff: bool = True) -> str:
        """The text of config.json."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write config.json into a folder, creating it if needed."""
        folder = local_folder(save_directory)
        files.make_folder(folder)
        files.write_json(folder / "config.json", self.to_dict())

    def update(self, entries: dict[str, Any]) -> None:
        """Set several entries, or none if one is refused; only the result must be consistent.

        Raises InputError, among others for an entry that the family does not have.
        """
        others = {n: value for n, value in entries.items() if n != "_attn_implementation"}
        self._override(others, "model.config")
        if "_attn_implementation" in entries:
            self._attn_implementation = entries["_attn_implementation"]

    @abstractmethod
    def _override(self, overrides: dict[str, Any], where: str) -> None:
        """Set all entries, or none if one is refused; errors start with `where`."""

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Self:
        """The config of the text model: this one."""
        return self

    @property
    def use_return_dict(self) -> bool:
        """Whether calls return a `ModelOutput` and not a tuple."""
        return True

    @property
    def _attn_implementation(self) -> str | None:
        """The name that the user gave; it has no effect."""
        named: str | None = vars(self).get("attention") or vars(self)["_entries"].get(
            "attn_implementation"
        )
        return named or "sdpa"

    @_attn_implementation.setter
    def _attn_implementation(self, name: str | None) -> None:
        vars(self)["attention"] = checked_attention(name)


def checked_attention(name: str | None) -> str | None:
    """A known name of an attention kernel, or None. Raises InputError for an unknown name.

    The name has no effect: the kernel is chosen by device, dtype and length, and all kernels
    compute the same function.
    """
    if name is None:
        return None
    if name not in ATTENTIONS:
        accepted = ", ".join(ATTENTIONS)
        raise InputError(f"attn_implementation: found {name!r}; accepted: {accepted}")
    log.info(
        "attn_implementation=%r: the fastest exact kernel for the device and dtype is always used; "
        "output_attentions works with every kernel",
        name,
    )
    return name
