"""Model: the model interface on which adapters, jobs and generation rely."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trainer.models.adapters.adapter import Adapter, absolute_base
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.cache import TextCache
from trainer.models.formats.expert_files import StoredExperts
from trainer.models.layered import Layered


class Model(nn.Module):
    """A model of a native family (`FamilyModel`), or a model of the transformers library.

    A tensor's "hub name" is its name in the model's files on the hub. Its "short name" is the hub
    name without the prefix of the bare model.
    """

    task: ClassVar[str]
    class_suffix: ClassVar[str] = ""
    """The end of the class name in transformers, such as ForSequenceClassification."""
    vocabulary: ClassVar[tuple[str, ...]] = ()
    """The head's parameters with a row per vocabulary token; only language model heads have any."""
    fixed: ClassVar[tuple[str, ...]] = ()
    """Parameters that are never trained; files may omit them if they are zeros."""
    peft_task: ClassVar[str | None] = None
    """PEFT's name of the task, if it has one."""
    config: Any
    body: Layered

    def __init__(self) -> None:
        super().__init__()
        self.fresh: list[str] = []
        """The modules whose weights were missing from the files and are therefore random."""
        self.source: tuple[str, str | None] = ("", None)
        """The path, as given, and the revision that the weights were loaded from."""
        self.base_path = ""
        """The path by which an adapter's files refer to this model; absolute if it is local."""
        self.home: Path | None = None
        """The absolute path of the folder or file with the weights; for an adapter, its base's."""
        self.resized = False
        """Whether the vocabulary's size differs from that of the loaded weights."""
        self.lora: Adapter | None = None
        """The description of the adapters, if any (trainer/models/adapters)."""
        self.generation_config: dict[str, Any] = {}
        """The entries of generation_config.json, which only language models have."""

    def set_source(
        self, path: str | Path, revision: str | None, home: Path | None = None, subfolder: str = ""
    ) -> None:
        """Note where the weights come from: a path as given, which was found at `home`."""
        self.source = (str(path), revision)
        self.base_path = absolute_base(path, subfolder)
        self.home = home and home.absolute()

    @property
    def peft_names(self) -> Mapping[str, tuple[str, ...]]:
        """The hub name of a module -> PEFT's names for it, where they differ."""
        return {}

    @property
    def stored_experts(self) -> StoredExperts | None:
        """How files store the experts; None without experts, or for a model of transformers."""
        return None

    @abstractmethod
    def add_lora(
        self, settings: LoRASettings, base: str | None = None, revision: str | None = None
    ) -> None:
        """Freeze the weights and add LoRA adapters, which at first do not change the outputs.

        `base` and `revision` are written to the adapter's files as the base model's; default:
        `source`. Raises InputError for settings that do not fit the model.
        """

    @abstractmethod
    def merge_lora(self) -> None:
        """Merge the adapters into the weights: a model without adapters and with equal outputs."""

    @abstractmethod
    def save_pretrained(
        self,
        directory: str | Path,
        *,
        merge: bool = False,
        state_dict: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write the folder of the model, or of its adapters unless they are merged.

        `state_dict` holds other weights to write, keyed by this model's parameter names.
        """

    @abstractmethod
    def load_weights(self, directory: str | Path) -> None:
        """Load all weights, including the head's, that a model of the same shape saved."""

    @property
    @abstractmethod
    def architecture(self) -> str:
        """The name of this class in transformers, such as BertForSequenceClassification."""

    @property
    @abstractmethod
    def prefix(self) -> str:
        """The prefix of the bare model's tensors in files, such as bert, model or transformer."""

    @abstractmethod
    def hub_name(self, parameter_name: str) -> str:
        """The name of a parameter in the saved file."""

    @abstractmethod
    def short_name(self, parameter_name: str) -> str:
        """The name of a parameter in the saved file, without the prefix."""

    @abstractmethod
    def in_body(self, parameter_name: str) -> bool:
        """Whether a parameter, named as in this package, is in the bare model, not in the head."""

    @property
    @abstractmethod
    def layer_prefixes(self) -> tuple[str, ...]:
        """The prefix of the names of each layer's parameters."""

    @property
    @abstractmethod
    def embeddings_name(self) -> str:
        """The short name of the token embeddings' module."""

    @property
    @abstractmethod
    def output_parameters(self) -> tuple[str, ...]:
        """The head's parameters with a row per vocabulary token, named as in this package.

        Empty if they are tied.
        """

    @property
    @abstractmethod
    def known_ties(self) -> Mapping[str, str]:
        """Hub name of a tensor -> hub name of the tensor that a config may tie it to."""

    @property
    @abstractmethod
    def tied(self) -> Mapping[str, str]:
        """Hub name of a tensor -> hub name of the tensor that this model ties it to."""

    @property
    @abstractmethod
    def longest_sequence(self) -> int:
        """The length of the longest sequence that the model has positions for."""

    @abstractmethod
    def new_cache(self, num_sequences: int) -> TextCache:
        """An empty cache for texts that a decoder extends."""

    @abstractmethod
    def get_input_embeddings(self) -> nn.Embedding:
        """The token embeddings [vocab_size, D]."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype
