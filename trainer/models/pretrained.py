"""PretrainedModel: what every model does: read and write the hub's format, pack its inputs."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from trainer import hub
from trainer.errors import InputError
from trainer.models import adapter_files, keys, loading, saving
from trainer.models.cache import KeyValueCache
from trainer.models.config import ModelConfig, config_file, read_config, saved_labels
from trainer.models.dropout import number_sites
from trainer.models.encoder import Encoded
from trainer.models.family import FamilyHead
from trainer.models.generation_config import read_generation_config
from trainer.models.lora import Adapter, add_lora, merge_lora, resized_parameters, train_whole
from trainer.models.lora_settings import LoRASettings
from trainer.models.packing import FlatInputs, Layout, flat_inputs
from trainer.models.resizing import resize_vocabulary
from trainer.models.rope import read_rope
from trainer.models.sequence_lengths import SequenceLengths
from trainer.models.weight_files import WeightFiles

log_pads = logging.getLogger("trainer.pads")
"""Says once that pads are taken for tokens."""


class PretrainedModel(nn.Module):
    """A body and, for a task, a head on it; an ordinary `nn.Module`.

    Made by `from_pretrained` or `from_config`. Subclasses name their task and write `forward`.
    """

    task: ClassVar[str]
    class_suffix: ClassVar[str]
    """Completes the hub's class name: ForSequenceClassification."""
    head_in_fp32: ClassVar[bool] = False
    """Whether the head computes in fp32 under autocast, too."""
    reads_first_token: ClassVar[bool] = False
    """Whether the head reads one vector of each sequence, which is its first token's or pooled."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fresh: list[str] = []
        """The modules whose weights were not in the files, and so are random."""
        self.source: tuple[str, str | None] = ("", None)
        """The path and revision that the weights were loaded from."""
        self.resized = False
        """Whether the vocabulary is another than that of the weights that were loaded."""
        self.lora: Adapter | None = None
        """What is known of the adapters, where the model has some (`trainer.models.lora`)."""
        self.pending: loading.Pending | loading.Drawn | None = None
        """Where weights that are still on the meta device come from."""
        self.generation_config: dict[str, Any] = {}
        """The entries of the file's generation_config.json, which a model that writes keeps."""
        self.config = config
        head = self.family_head
        self.body: Any = config.family.body(config, head.pooler)
        self.head: Any = None if head.build is None else head.build(config)
        number_sites(self)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        token: str | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        new_head: bool = False,
        from_tf: bool = False,
        lazily: bool = False,
        **config_overrides: Any,
    ) -> Self:
        """The model of a local directory, a hub id or a pkg:// path, in eval mode.

        `dtype` is float32 unless given ("auto": as in the file); `torch_dtype` is its old name. A
        head that the file does not have, or with `new_head` any head, gets fresh random weights.
        `from_tf` reads tf_model.h5 (without TensorFlow) instead of model.safetensors. An adapter's
        folder (LoRA, as PEFT saves it) gives its base with the adapters, which alone are trained.
        `lazily` reads names and shapes alone, where there are no adapters: `fill` reads the rest.
        Raises InputError, one line, for anything wrong in the files or the overrides.
        """
        dtype = _one_dtype(dtype, torch_dtype)
        options = {"cache_dir": cache_dir, "local_files_only": local_files_only, "token": token}
        source = _weight_files(from_tf)
        options |= {"revision": revision, "weights": source.pattern}
        folder = hub.find(str(path), **options)  # type: ignore[arg-type]
        adapter = adapter_files.read_adapter(folder)
        home = folder if adapter is None else adapter.base_folder(**options)
        if home.is_file():
            from trainer.interop.gguf import GGUFWeights as source
        described = home if adapter is None else adapter.described(home)
        entries = read_config(described)
        if adapter is not None:
            config_overrides = {**adapter.vocabulary(entries), **config_overrides}
        config = ModelConfig(entries, config_overrides, where=config_file(described))
        config.tell_unused(described)
        model = cls._on_meta(config)
        whole = set() if adapter is None or new_head else adapter.whole(config.family.prefix)
        named = saved_labels(entries) if "id2label" in config_overrides else None
        model.pending = loading.pending_weights(
            model,
            home,
            dtype=dtype,
            new_head=new_head,
            labels_in_file=named,
            architectures=entries.get("architectures"),
            source=source,
            elsewhere=whole,
        )
        model.source = (str(path), revision)
        model.generation_config = read_generation_config(home)
        if adapter is not None or not lazily:
            model.fill(model)
        if adapter is not None:
            adapter.load_into(model, without_head=new_head)
        return model.eval()

    @classmethod
    def from_config(cls, config: ModelConfig, *, lazily: bool = False) -> Self:
        """The model of a config with random weights, drawn from torch's global generator.

        `lazily` leaves them to `fill`, which draws the same ones.
        """
        model = cls._on_meta(config)
        model.pending = drawn = loading.Drawn()
        if not lazily:
            model.fill(model)
            torch.set_rng_state(drawn.generator)
        return model

    def save_pretrained(
        self,
        directory: str | Path,
        max_shard_size: int | str = "5GB",
        format: Literal["safetensors", "tf"] = "safetensors",
        merge: bool = False,
        state_dict: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Writes config.json and model.safetensors (in shards above `max_shard_size`).

        A model with adapters writes those alone, as PEFT does, or with `merge` its weights with
        the adapters added to them. With `format="tf"` it is tf_model.h5, which transformers'
        TensorFlow classes load. `state_dict` holds other weights to write, by the names that the
        parameters have here.
        """
        if format not in ("safetensors", "tf"):
            raise InputError(f"format: found {format!r}; accepted: safetensors, tf")
        if format == "tf" and self.lora is not None:
            raise InputError("format: tf_model.h5 has no adapters; accepted: after merge_lora()")
        if self.lora is not None and not merge:
            adapter_files.save_adapter(self, Path(directory), state_dict)
            return
        if format == "tf":
            from trainer.interop.tensorflow_saving import save_model

            save_model(self, Path(directory), max_shard_size)
            return
        saving.save_model(self, Path(directory), max_shard_size, state_dict)

    def add_lora(
        self, settings: LoRASettings, base: str | None = None, revision: str | None = None
    ) -> None:
        """Freezes the weights and puts adapters beside them, which change nothing yet.

        The head of a task, and what started with random weights, is trained as it is; the output
        weights of a language model are not. `base` is the path that an adapter's folder names its
        base by: where the weights were loaded from, unless given. Raises InputError for a target
        that is no linear layer of the body.
        """
        path, revision = self.source if base is None else (base, revision)
        add_lora(self, settings, path, revision)

    def merge_lora(self) -> None:
        """Adds the adapters to the weights: a plain model with the same outputs."""
        merge_lora(self)

    @property
    def family_head(self) -> FamilyHead:
        """What the family knows of this task's head. Raises InputError if it has none."""
        family = self.config.family
        if self.task not in family.heads:
            tasks = ", ".join(task for task in family.heads if task != "base")
            raise InputError(f"model: {family.name} has no head for {self.task}; accepted: {tasks}")
        return family.heads[self.task]

    @property
    def tied(self) -> Mapping[str, str]:
        """The hub's second names of tensors that are one with others -> their first names."""
        return self.family_head.tied if self.config.tie_word_embeddings else {}

    @property
    def architecture(self) -> str:
        """The hub's name of this class, such as BertForSequenceClassification."""
        return self.config.family.name + (self.family_head.class_suffix or self.class_suffix)

    def hub_name(self, parameter_name: str) -> str:
        """The name that a parameter has in the saved file."""
        return keys.hub_name(parameter_name, self.config.family, self.task)

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embeddings [vocab_size, D]."""
        return self.body.embeddings.token

    def resize_token_embeddings(
        self, new_size: int | None = None, pad_to_multiple_of: int | None = None
    ) -> nn.Embedding:
        """Grows or cuts the vocabulary to `new_size` rows, rounded up to a multiple if asked for.

        Rows that stay keep their bits, new ones are normal numbers as wide as initializer_range;
        what is tied to the embeddings and config.vocab_size follow. Returns the embeddings.
        Optimizers must be made after, since the parameters are new. Raises InputError for a size
        that is none.
        """
        embeddings = resize_vocabulary(self, new_size, pad_to_multiple_of)
        if self.lora is not None:
            train_whole(self, resized_parameters(self))
        return embeddings

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def num_parameters(self, only_trainable: bool = False) -> int:
        """Numbers in the parameters, each shared one counted once."""
        parameters: Iterator[nn.Parameter] = self.parameters()
        return sum(p.numel() for p in parameters if p.requires_grad or not only_trainable)

    def gradient_checkpointing_enable(self) -> None:
        """Recompute each layer in the backward pass, with the very masks of the forward pass."""
        self.body.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations for the backward pass."""
        self.body.gradient_checkpointing = False

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compile the body, as `torch.compile` does with these options.

        What a call must first learn about its batch, and the head, stay outside: so a model is one
        graph in training and one in evaluation, whatever the lengths. Generation runs uncompiled.
        """
        self.body.compile(*arguments, **options)

    def fill(self, part: nn.Module) -> None:
        """Reads or draws what is not there yet of a module's weights, or of the whole model's."""
        if self.pending is not None:
            self.pending.fill(self, part)

    def load_weights(self, directory: str | Path) -> None:
        """Overwrites the weights, head included, with those that a model of this shape saved."""
        loading.overwrite_weights(self, Path(directory))

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        sequence_lengths: Tensor | SequenceLengths | None,
        dropout_keys: Tensor | None,
        output_hidden_states: bool,
        output_attentions: bool,
        cache: KeyValueCache | None = None,
    ) -> "Encoding":
        """Packs the inputs of a call and runs the body. Raises InputError naming an argument.

        Positions of a flat call count from 0 in each sequence, whatever the family; those of a
        padded call are rows of the position embeddings, as in transformers.
        """
        family = self.config.family
        pools = self.reads_first_token or self.body.pooler is not None
        inputs = flat_inputs(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            sequence_lengths,
            dropout_keys,
            keep_first=self.body.keeps_first_column and pools,
            pad_token_id=self.config.pad_token_id if family.positions_after_pad else None,
            cache=cache,
        )
        if attention_mask is None and sequence_lengths is None:
            _tell_pads(input_ids, self.config)
        own_positions = position_ids is None or sequence_lengths is not None
        _check_values(inputs, self.config, own_positions)
        states = output_hidden_states or self.config.output_hidden_states
        attentions = output_attentions or self.config.output_attentions
        encoded = self._run_body(inputs, states, attentions)
        return Encoding(encoded, inputs.layout, inputs.dropout_keys)

    def _run_body(self, inputs: FlatInputs, states: bool, attentions: bool) -> Encoded:
        if self.body._compiled_call_impl is None:
            return self.body(inputs, states, attentions)
        if inputs.cache is not None:
            with torch.compiler.set_stance("force_eager"):
                return self.body(inputs, states, attentions)
        inputs.layout.settle()
        return self.body(inputs, states, attentions)

    @classmethod
    def _on_meta(cls, config: ModelConfig) -> Self:
        with torch.device("meta"):
            return cls(config)


@dataclass(frozen=True)
class Encoding:
    """The body's outputs, flat inside and unpacked where the caller sees them."""

    encoded: Encoded
    layout: Layout
    token_keys: Tensor | None

    @property
    def last_hidden_state(self) -> Tensor:
        return self.layout.unpack(self.encoded.tokens)

    @property
    def sequence_keys(self) -> Tensor | None:
        """[B], the dropout keys of the sequences: those of their first tokens."""
        return None if self.token_keys is None else self.token_keys[self.layout.first_tokens]

    @property
    def traces(self) -> dict[str, tuple[Tensor, ...] | None]:
        """hidden_states and attentions, where they were asked for."""
        states, weights = self.encoded.hidden_states, self.encoded.attentions
        unpack, unpack_attentions = self.layout.unpack, self.layout.unpack_attentions
        return {
            "hidden_states": states and tuple(unpack(state) for state in states),
            "attentions": weights and tuple(unpack_attentions(each) for each in weights),
        }


def _one_dtype(
    dtype: torch.dtype | str | None, torch_dtype: torch.dtype | str | None
) -> torch.dtype | str | None:
    """`dtype`, or the one under its old name."""
    if dtype is not None and torch_dtype not in (None, dtype):
        raise InputError(f"torch_dtype: found {torch_dtype} beside dtype {dtype}; accepted: one")
    return torch_dtype if dtype is None else dtype


def _weight_files(from_tf: bool) -> type[WeightFiles]:
    """The reader of the format that the weights are in."""
    if not from_tf:
        return WeightFiles
    from trainer.interop.tensorflow_weights import TensorFlowWeights

    return TensorFlowWeights


def max_sequence_length(config: ModelConfig) -> int:
    """Tokens of the longest sequence that a model has positions for."""
    after_pad = config.family.positions_after_pad
    return _num_positions(config) - (config.pad_token_id + 1 if after_pad else 0)


def _num_positions(config: ModelConfig) -> int:
    """Those that the model has embeddings for, or that its rotary scaling is meant for."""
    if "rope_scaling" in config.family.defaults:
        return max(read_rope(config).longest, config.max_position_embeddings)
    return config.max_position_embeddings


def _check_values(inputs: FlatInputs, config: ModelConfig, own_positions: bool) -> None:
    """What would read beyond an embedding table; values are looked at on the CPU only."""
    layout, types = inputs.layout, config.type_vocab_size
    if inputs.token_type_ids is not None and not types:
        raise InputError(f"token_type_ids: a {config.model_type} model has no token types")
    after_pad = config.family.positions_after_pad
    length = layout.longest if layout.width is None or after_pad else layout.width
    most = max_sequence_length(config)
    if own_positions and length > most:
        raise InputError(
            f"input_ids: found a sequence of {length} tokens; accepted: up to {most} "
            "(the tokenizer's truncation=True cuts there)"
        )
    _check_range("input_ids", inputs.input_ids, config.vocab_size)
    _check_range("position_ids", inputs.position_ids, _num_positions(config))
    _check_range("token_type_ids", inputs.token_type_ids, types)


def _tell_pads(input_ids: Tensor, config: ModelConfig) -> None:
    """Warn where a call without a mask seems to be padded; values are looked at on the CPU only."""
    pad = config.pad_token_id
    if pad is None or input_ids.device.type != "cpu" or torch.compiler.is_compiling():
        return
    ends = input_ids[..., [0, -1]] if input_ids.ndim and input_ids.shape[-1] else input_ids
    meant = (config.bos_token_id, config.eos_token_id)  # a pad may be one of these too
    if pad not in meant and bool((ends == pad).any()):
        log_pads.warning(
            "input_ids: found pads (%d) and no attention_mask, so each counts as a token; "
            "accepted: the attention_mask that the tokenizer gives",
            pad,
        )


class _Once(logging.Filter):
    """Lets the first record pass."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = False

    def filter(self, record: logging.LogRecord) -> bool:
        first, self.passed = not self.passed, True
        return first


log_pads.addFilter(_Once())


def _check_range(name: str, ids: Tensor | None, size: int) -> None:
    if ids is None or ids.device.type != "cpu" or torch.compiler.is_compiling():
        return
    lowest, highest = (int(bound) for bound in ids.aminmax())
    if lowest < 0 or highest >= size:
        found = lowest if lowest < 0 else highest
        raise InputError(f"{name}: found {found}; accepted: 0 to {size - 1}")
