"""PretrainedModel: the base class of models; it loads and saves them, and packs their inputs.

Dimensions: B sequences, padded to L tokens or with T tokens in total.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, Unpack, cast

import torch
from torch import Tensor, nn

from trainer import hub
from trainer.errors import InputError
from trainer.models.adapters import adapter_files
from trainer.models.adapters.adapter_saving import save_adapter
from trainer.models.adapters.lora import (
    add_lora,
    resized_parameters,
    train_whole,
)
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.adapters.merging import merge_lora
from trainer.models.body import Encoded
from trainer.models.cache import KeyValueCache
from trainer.models.config import ModelConfig, config_file, read_config, saved_labels
from trainer.models.encoding import Encoding
from trainer.models.family import family_of
from trainer.models.family_classes import of_family
from trainer.models.formats import loading, saving
from trainer.models.formats.generation_config import read_generation_config
from trainer.models.formats.weight_files import WeightFiles
from trainer.models.hub_options import LoadOptions, check_save_options, load_options
from trainer.models.input_checks import (
    check_shapes,
    check_values,
    no_token_types,
    require_tensors,
    warn_of_pads,
)
from trainer.models.inputs import Call, FlatInputs, flat_inputs
from trainer.models.known_parts import KnownParts
from trainer.models.lazy_values import read_now
from trainer.models.offloading import ActivationOffload
from trainer.models.outputs import ModelOutput
from trainer.models.quantization.quantize import read_quantized, refuse_quantization
from trainer.models.resizing import resize_vocabulary
from trainer.models.sequence_lengths import SequenceLengths
from trainer.models.signatures import named_arguments, with_signature
from trainer.models.without_values import without_values
from trainer.pushing.saved_files import SavedOptions, push_saved
from trainer.stores.url import local_folder

log = logging.getLogger("trainer")

Given = dict[str, Any]
"""Argument name -> value, for the arguments of a call that only the head reads, such as labels."""


class PretrainedModel(KnownParts, ABC):
    """A body and, for a task, a head on top of it; an ordinary `nn.Module`.

    Create it with `from_pretrained` or `from_config`. A subclass adds the head of one task; a file
    of `trainer/models/heads` defines the subclass and exports it as HEAD.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # `fully_shard` creates subclasses that define no head of their own and inherit `forward`
        if "forward" not in vars(cls) and {"task", "respond"} & vars(cls).keys():
            cls.forward = with_signature(cls, PretrainedModel.forward)  # type: ignore[method-assign]

    def __init__(self, config: ModelConfig) -> None:
        """Create a model with random weights, like `from_config`."""
        if torch.get_default_device().type == "meta":
            super().__init__(config)
            return
        with without_values():
            super().__init__(config)
        self._draw()

    def arrange(self, call: Call, answers: Given) -> Call:
        """Return the call to pass to the body. A head may override this method to check `answers`
        (raising InputError) and to add to them."""
        return call

    @abstractmethod
    def respond(self, encoding: Encoding, answers: Given) -> ModelOutput:
        """Compute the outputs of a call: the head's results and the loss."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        *positional: object,
        sequence_lengths: Tensor | SequenceLengths | None = None,
        dropout_keys: Tensor | None = None,
        **named: object,
    ) -> ModelOutput | tuple[Any, ...]:
        """Run a padded call (ids and mask [B, L]) or a flat call (ids [T], sequence_lengths [B]).

        sequence_lengths must be on the CPU. The head's TypedDict `Answers` lists the other
        arguments. The head's labels, followed by output_hidden_states, output_attentions and
        return_dict, may also be positional. Under torch.export the outputs are a dictionary. Raises
        InputError, which names the argument, for invalid inputs.
        """
        answers = named_arguments(type(self), positional, named)
        require_tensors(
            {
                "input_ids": input_ids,
                "attention_mask": attention_mask,
                "token_type_ids": token_type_ids,
                "position_ids": position_ids,
                "inputs_embeds": answers.get("inputs_embeds"),
                **{name: answers.get(name) for name in self.labels},
            }
        )
        states = answers.pop("output_hidden_states", None)
        attentions = answers.pop("output_attentions", None)
        as_dict = answers.pop("return_dict", None) is not False
        embeds = answers.pop("inputs_embeds", None)
        if (input_ids is None) == (embeds is None):
            found = "neither" if input_ids is None else "both"
            raise InputError(f"input_ids, inputs_embeds: found {found}; accepted: one of them")
        call = Call(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            sequence_lengths,
            dropout_keys,
            inputs_embeds=embeds,
        )
        call = self._with_cache(call, answers, attentions)
        encoding = self.encode(self.arrange(call, answers), states, attentions)
        outputs = self.respond(encoding, answers)
        if as_dict and torch.compiler.is_exporting():
            return dict(outputs.items())  # type: ignore[return-value]  # torch.export knows dicts
        return outputs if as_dict else outputs.to_tuple()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
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
        quantization: str | None = None,
        **config_overrides: object,
    ) -> Self:
        """Load the model from a local directory, a hub id or a pkg:// path, in eval mode.

        `dtype` is float32 by default ("auto": the file's dtype); `torch_dtype` is the old name of
        this argument. A head that the files lack gets random weights; with `new_head`, the head
        gets random weights in any case. `from_tf` reads tf_model.h5, if it exists, without
        TensorFlow. For a folder with a PEFT adapter, the base model is loaded and frozen, and the
        adapter is added; modules with random weights stay trainable. With `lazily`, only the names
        and shapes of the files' weights are read; `fill` reads the weights. Adapters, and weights
        that the files lack, get their values immediately. `quantization` (int8, int4, nf4) packs
        the body's linear layers while they are read. `config_overrides` replace entries of the
        config, or are arguments of transformers' from_pretrained
        (`trainer/models/hub_options.py`). Raises InputError for invalid files or arguments.
        """
        options = {"cache_dir": cache_dir, "local_files_only": local_files_only, "token": token}
        options["revision"] = revision
        hub_options, dtype = _options(config_overrides, options), _one_dtype(dtype, torch_dtype)
        if hub_options.state_dict is not None:
            refuse_quantization(quantization, "state_dict")
            return cls._from_state_dict(path, hub_options, options, dtype, new_head)
        path = one_path(path, hub_options.overrides)
        folder = _download(str(path), {**options, "subfolder": hub_options.subfolder}, from_tf)
        adapter = adapter_files.read_adapter(folder)
        home = folder if adapter is None else adapter.base_folder(**options)
        source = _format(home, from_tf)
        config, entries = _config_of(home, adapter, hub_options)
        model = cls._on_meta(config)
        whole = set() if adapter is None or new_head else adapter.whole(model)
        model.pending = loading.pending_weights(
            model,
            home,
            dtype=dtype,
            new_head=new_head,
            labels_in_file=_labels_to_keep(entries, hub_options.overrides),
            architectures=entries.get("architectures"),
            source=source,
            elsewhere=whole,
            ignore_mismatched=hub_options.ignore_mismatched_sizes,
        )
        model.set_source(path, revision, home, hub_options.subfolder)
        model.generation_config = read_generation_config(home)
        info, lazily = model.pending.info, lazily and hub_options.device is None
        _read_weights(model, lazily, quantization, new_head, adapter)
        model.eval().to(hub_options.device)
        return (model, info) if hub_options.output_loading_info else model  # type: ignore[return-value]

    @classmethod
    def from_config(
        cls,
        config: ModelConfig,
        *,
        lazily: bool = False,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        **options: object,
    ) -> Self:
        """Create a model from a config, and draw its weights from torch's global generator.

        With `lazily`, `fill` draws them later, with the same result. `dtype` is float32 by default;
        `torch_dtype` is the old name of this argument. `options` are the options of
        `from_pretrained` that need no files, such as attn_implementation and trust_remote_code.
        Raises InputError for any other option.
        """
        hub_options = load_options(options)
        if hub_options.overrides:
            name = next(iter(hub_options.overrides))
            raise InputError(
                f"from_config: found {name}; accepted: config.{name} = ... before the call"
            )
        for name in ("state_dict", "subfolder", "output_loading_info"):
            if name in options and options[name]:
                raise InputError(f"from_config: found {name}; accepted only by from_pretrained")
        config = _own(config, {})
        if hub_options.attention is not None:
            config._attn_implementation = hub_options.attention
        model = cls._on_meta(config)
        named = _one_dtype(dtype, torch_dtype)
        wanted = None if named in (None, "auto") else loading.known_dtype(named)
        if lazily and hub_options.device is None:
            model.pending = loading.Drawn(wanted)
            _set_dtype(model, wanted)
            return model
        model._draw()
        return model.to(hub_options.device, wanted)

    _from_config = from_config
    """transformers' private name for `from_config`."""

    def save_pretrained(
        self,
        directory: str | Path | None = None,
        max_shard_size: int | str = "5GB",
        format: Literal["safetensors", "tf"] = "safetensors",
        merge: bool = False,
        state_dict: Mapping[str, Tensor] | None = None,
        **options: object,
    ) -> None:
        """Write config.json and model.safetensors (sharded if above `max_shard_size`).

        For a model with adapters, only the adapters are written, in PEFT's format, or with `merge`
        the merged weights. `format="tf"` writes tf_model.h5 for transformers' TensorFlow classes.
        `state_dict` holds other weights to write, keyed by this model's parameter names. `options`
        are arguments of transformers' save_pretrained (`trainer/models/hub_options.py`). Raises
        InputError for invalid values.
        """
        named = one_path(directory, options, "save_directory", "directory")
        if not check_save_options(options):
            return
        if format not in ("safetensors", "tf"):
            raise InputError(f"format: found {format!r}; accepted: safetensors, tf")
        if format == "tf" and self.lora is not None:
            raise InputError(
                "format: tf_model.h5 cannot hold adapters; accepted: after merge_lora()"
            )
        if format == "tf" and state_dict is not None:
            raise InputError("state_dict: found one with format='tf'; accepted: safetensors")
        folder = local_folder(named)
        if state_dict is None and self.lora is not None and not merge:
            read_now(self, self.lora.whole)
        elif state_dict is None:
            self.fill(self)
        if self.lora is not None and not merge:
            save_adapter(self, folder, state_dict)
            return
        if format == "tf":
            from trainer.interop.tensorflow_saving import save_model

            save_model(self, folder, max_shard_size)
            return
        saving.save_model(self, folder, max_shard_size, state_dict)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        max_shard_size: int | str = "5GB",
        **options: Unpack[SavedOptions],
    ) -> str:
        """Send the files that `save_pretrained` writes to a repository on the hub.

        The options are those of `trainer.pushing.saved_files.push_saved`: commit_message, private
        (true by default), token, revision, replace. Returns the URL of the commit. This method
        writes no model card; the Trainer's `push_to_hub` does.
        """
        return push_saved(lambda f: self.save_pretrained(f, max_shard_size), repo_id, **options)

    def add_lora(
        self, settings: LoRASettings, base: str | None = None, revision: str | None = None
    ) -> None:
        """Freeze the weights and add LoRA adapters.

        Outputs do not change until the adapters are trained, unless `settings.init` is loftq.
        The task's head and modules that started with random weights are trained in full; the
        output weights of a language model are frozen. The adapter's files will name `base` as
        the path of the base model; by default, it is the path from which the weights were loaded.
        Raises InputError for a target that is not a linear layer of the body.
        """
        path, revision = (self.base_path, self.source[1]) if base is None else (base, revision)
        add_lora(self, settings, path, revision)

    def merge_lora(self) -> None:
        """Merge the adapters into the weights; the model then has no adapters.

        Without quantization, outputs stay equal up to rounding.
        """
        self.fill(self)
        merge_lora(self)

    def resize_token_embeddings(
        self,
        new_size: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
        **alias: int | None,
    ) -> nn.Embedding:
        """Grow or shrink the vocabulary to `new_size` rows.

        With `pad_to_multiple_of`, the size is rounded up to a multiple of that number.

        Old rows are unchanged. New rows are drawn close to the mean of the old rows, as in
        transformers, or without `mean_resizing` from a normal distribution with std
        initializer_range. Tied weights and config.vocab_size change too. Returns the embeddings.
        Create optimizers after this call, since it replaces the parameters. Raises InputError for
        an invalid size.
        """
        new_size = alias.pop("new_num_tokens", new_size)
        if alias:
            name = next(iter(alias))
            raise TypeError(f"resize_token_embeddings() got an unexpected argument '{name}'")
        embeddings = resize_vocabulary(self, new_size, pad_to_multiple_of, mean_resizing)
        if self.lora is not None:
            train_whole(self, resized_parameters(self))
        return embeddings

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Recompute each layer in the backward pass, with the forward pass's dropout masks.

        Always uses torch's non-reentrant checkpointing. Raises InputError for other options.
        """
        given = options.pop("activation_checkpointing_kwargs", gradient_checkpointing_kwargs)
        for name, value in (given or {}).items():
            if name not in ("use_reentrant", "preserve_rng_state"):
                accepted = "accepted: use_reentrant, preserve_rng_state"
                raise InputError(f"gradient_checkpointing_kwargs: found '{name}'; {accepted}")
            if name == "use_reentrant" and value:
                log.warning("use_reentrant=True has no effect: gradients are the same without it")
        for name, value in options.items():
            if value not in (None, False) and (name, value) != ("every_n_layers", 1):
                raise InputError(f"{name}: found {value}; accepted: checkpointing of every layer")
        self.body.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep all activations for the backward pass."""
        self.body.gradient_checkpointing = False

    def activation_offload_enable(self) -> None:
        """Move the tensors saved for the backward pass to host memory; results do not change."""
        self.body.offload = ActivationOffload()

    activation_checkpointing_enable = gradient_checkpointing_enable
    activation_checkpointing_disable = gradient_checkpointing_disable

    def compile(self, *arguments: object, **options: object) -> None:
        """Compile the body with `torch.compile` and these options.

        The head, and code that depends on the batch's lengths, are not compiled, so training and
        evaluation each need only one graph for all lengths. Generation runs uncompiled.
        """
        self.body.compile(*arguments, **options)

    def fill(self, part: nn.Module) -> None:
        """Load or draw those weights of a module (or the whole model) that have no values yet."""
        if self.pending is not None:
            self.pending.fill(self, part)

    def load_weights(self, directory: str | Path) -> None:
        """Load all weights, including the head's, that a model with the same config has saved."""
        if self.lora is None:
            loading.overwrite_weights(self, Path(directory))
        else:
            adapter_files.load_adapter_weights(self, Path(directory))

    def encode(
        self, call: Call, states: bool | None = None, attentions: bool | None = None
    ) -> Encoding:
        """Pack the inputs of a call and run the body. Raises InputError, naming the argument.

        `states` and `attentions` request hidden states and attention probabilities; if None, the
        config decides, except that a call with a cache gets no attention probabilities.
        position_ids of a flat call count from 0 in each sequence, for every family; those of a
        padded call index rows of the position embeddings, as in transformers.
        """
        cached = any(each is not None and each.cache is not None for each in (call, call.decoder))
        if cached and attentions:
            raise InputError("output_attentions: found True with a cache; accepted: one of them")
        inputs = self._flat_inputs(call)
        if call.attention_mask is None and not call.is_flat and call.input_ids is not None:
            warn_of_pads(call.input_ids, self.config)
        if call.decoder is not None:
            inputs = replace(inputs, decoder=self._flat_inputs(call.decoder))
        if states is None:
            states = bool(self.config.output_hidden_states)
        if attentions is None:
            attentions = bool(self.config.output_attentions) and not cached
        encoded = self._run_body(inputs, states, attentions)
        if inputs.decoder is None:
            shown = None if call.is_flat else inputs.cache
            return Encoding(encoded, inputs.layout, inputs.dropout_keys, cache=shown)
        written = inputs.decoder
        return Encoding(encoded, written.layout, written.dropout_keys, inputs.layout)

    @property
    def num_token_types(self) -> int:
        """The number of token types; 0 for a model that has none."""
        of_tokens = self.body.types_are_tokens
        return self.config.vocab_size if of_tokens else self.config.type_vocab_size or 0

    @property
    def _embedding_width(self) -> int | None:
        """The width of the token embeddings, even inside a wrapper module; None if unknown."""
        inside = cast(nn.Module, self.body.embed.token).modules()
        return next((m.embedding_dim for m in inside if isinstance(m, nn.Embedding)), None)

    def _flat_inputs(self, call: Call) -> FlatInputs:
        """Check and pack the inputs of a call, except those of the decoder."""
        config, num_types = self.config, self.num_token_types
        if not num_types:
            no_token_types(call.token_type_ids, config)
            call = replace(call, token_type_ids=None)
        check_shapes(call, self._embedding_width, config.num_attention_heads)
        pools = self.reads_first_token or self.body.pooler is not None
        after_pad = config.family.positions_after_pad
        inputs = flat_inputs(
            call,
            keep_first=self.body.keeps_first_column and pools,
            keep_gaps=self.body.counts_gaps,
            pad_token_id=config.pad_token_id if after_pad else None,
            only_ids=self.body.only_ids,
        )
        own_positions = call.position_ids is None or call.is_flat
        check_values(inputs, config, own_positions, num_types)
        return inputs

    def _with_cache(self, call: Call, answers: Given, attentions: bool | None) -> Call:
        """Move the cache from `answers` to the call; create a cache if the call should return one.

        Raises InputError for a cache of another class, or for a call that cannot use a cache.
        """
        cache, wanted = answers.pop("past_key_values", None), answers.pop("use_cache", None)
        if cache is not None and not isinstance(cache, KeyValueCache):
            accepted = "past_key_values of this model's outputs"
            raise InputError(f"past_key_values: found {type(cache).__name__}; accepted: {accepted}")
        decodes = self.config.family.kind == "decoder" and self.returns_cache and not call.is_flat
        if cache is not None and not decodes:
            raise InputError("past_key_values: found it; accepted: in padded calls to a decoder")
        if wanted is None:
            quiet = self.training or torch.is_grad_enabled() or torch.compiler.is_compiling()
            masked = call.attention_mask is not None and call.attention_mask.dim() == 4
            attentions = self.config.output_attentions if attentions is None else attentions
            wanted = self.config.use_cache and not (quiet or attentions or masked)
        if cache is None and decodes and wanted:
            cache = KeyValueCache(len(call.tokens))
        return replace(call, cache=cache)

    def _run_body(self, inputs: FlatInputs, states: bool, attentions: bool) -> Encoded:
        if self.body._compiled_call_impl is None:
            return self.body(inputs, states, attentions)
        if inputs.cache is not None:
            with torch.compiler.set_stance("force_eager"):
                return self.body(inputs, states, attentions)
        inputs.layout.precompute()
        return self.body(inputs, states, attentions)

    @classmethod
    def _from_state_dict(
        cls,
        path: str | Path | None,
        hub_options: LoadOptions,
        options: Given,
        dtype: Any,
        new_head: bool,
    ) -> Self:
        """A model with a state_dict's weights, and the config at `path` or in `hub_options`."""
        given = hub_options.overrides.pop("pretrained_model_name_or_path", path)
        if (given is None) == (hub_options.config is None):
            raise InputError(
                "state_dict: accepted: together with a path or a config, but not with both"
            )
        if given is None:
            model = cls._on_meta(_overridden(hub_options))
        else:
            places = {**options, "subfolder": hub_options.subfolder, "weights": None}
            home = hub.find(str(given), **places)
            model = cls._on_meta(_config_of(home, None, hub_options)[0])
            model.generation_config = read_generation_config(home)
        model.set_source(given or "", options["revision"], subfolder=hub_options.subfolder)
        info = loading.fill_from(model, hub_options.state_dict or {}, dtype, new_head)
        model.eval().to(hub_options.device)
        return (model, info) if hub_options.output_loading_info else model  # type: ignore[return-value]

    def _draw(self) -> None:
        """Draw new weights from torch's global generator, whose state advances."""
        self.pending = drawn = loading.Drawn()
        self.fill(self)
        torch.set_rng_state(drawn.generator)

    @classmethod
    def _on_meta(cls, config: ModelConfig) -> Self:
        """A model of the family's class for this head, without weights."""
        own = cast(type[Self], of_family(cls, family_of(config)))
        with without_values():
            return own(config)


def _options(given: Given, options: Mapping[str, Any]) -> LoadOptions:
    """Parse the arguments of from_pretrained that its signature does not name.

    `options` say where to find the config, if it is a path.
    """
    found = load_options(given)
    return found if found.config is None else replace(found, config=_own(found.config, options))


def _own(given: object, options: Mapping[str, Any]) -> ModelConfig:
    """A `ModelConfig` from the argument `config`, which may be a transformers config or a path."""
    if isinstance(given, ModelConfig):
        return given
    if isinstance(given, (str, Path)):
        return ModelConfig.from_pretrained(given, **options)
    if not hasattr(given, "to_dict"):
        accepted = "a config, or the path of one"
        raise InputError(f"config: found {type(given).__name__}; accepted: {accepted}")
    return ModelConfig(given.to_dict())


def _labels_to_keep(
    entries: Mapping[str, Any], overrides: Mapping[str, object]
) -> dict[int, str] | None:
    """The folder's label names, if it has any and the user overrides them; otherwise None."""
    relabelled = not {"id2label", "label2id"}.isdisjoint(overrides)
    return saved_labels(entries) if relabelled else None


def _config_of(
    home: Path, adapter: adapter_files.SavedAdapter | None, hub_options: LoadOptions
) -> tuple[ModelConfig, dict[str, Any]]:
    """Return (the config with the user's overrides, the config's entries without overrides).

    The config is read from the folder, unless the user passed a config.
    """
    described = home if adapter is None else adapter.described(home)
    entries = read_config(described) if hub_options.config is None else hub_options.config.to_dict()
    implied = {} if adapter is None else adapter.vocabulary(entries)
    overrides = {**implied, **hub_options.overrides}
    config = ModelConfig(entries, overrides, where=config_file(described))
    config.warn_of_unused(described)
    config._attn_implementation = hub_options.attention
    return config, entries


def _overridden(hub_options: LoadOptions) -> ModelConfig:
    """The config that the user passed, with the user's overrides."""
    config: ModelConfig = hub_options.config
    if hub_options.overrides:
        config = ModelConfig(config.to_dict(), hub_options.overrides, where="config")
    if hub_options.attention is not None:
        config._attn_implementation = hub_options.attention
    return config


def _read_weights(
    model: PretrainedModel,
    lazily: bool,
    quantization: str | None,
    new_head: bool,
    adapter: adapter_files.SavedAdapter | None,
) -> None:
    """Read the pending weights, quantized if requested, and the adapter.

    With `lazily`, and without quantization, the weights are not read: `fill` reads them later.
    """
    if quantization is not None:
        if new_head:
            refuse_quantization(quantization, "new_head=true")
        read_quantized(model, quantization)
    elif lazily:
        assert isinstance(model.pending, loading.Pending)
        _set_dtype(model, model.pending.dtype)
        model.pending.draw(model)
    else:
        model.fill(model)
    if adapter is not None:
        adapter.load_into(model, without_head=new_head)


def _set_dtype(model: nn.Module, dtype: torch.dtype | None) -> None:
    """Set the dtype of parameters on the meta device; None leaves it unchanged."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def one_path(
    path: str | Path | None,
    named: dict[str, Any],
    alias: str = "pretrained_model_name_or_path",
    name: str = "path",
) -> str | Path:
    """Return `path`, or remove the argument `alias` from `named` and return its value.

    Raises InputError unless exactly one of the two is given.
    """
    given = named.pop(alias, None)
    if (path is None) == (given is None):
        found = "nothing" if path is None else f"it with {alias}"
        raise InputError(f"{name}: found {found}; accepted: one path")
    found_path = given if path is None else path
    if not str(found_path):
        raise InputError(f"{name}: found an empty text; accepted: one path")
    return found_path


def _one_dtype(
    dtype: torch.dtype | str | None, torch_dtype: torch.dtype | str | None
) -> torch.dtype | str | None:
    """Return `dtype`, or `torch_dtype` (the old name of the argument) if `dtype` is None."""
    if dtype is not None and torch_dtype not in (None, dtype):
        raise InputError(f"torch_dtype: found {torch_dtype} with dtype {dtype}; accepted: one")
    return torch_dtype if dtype is None else dtype


def _download(path: str, options: dict[str, Any], from_tf: bool) -> Path:
    """Find a model's folder, and download its weights: tf_model.h5 if `from_tf` is true and the
    folder has this file, otherwise safetensors."""
    folder = Path()
    for source in (_weight_files(True), WeightFiles) if from_tf else (WeightFiles,):
        options["weights"] = source.pattern
        folder = hub.find(path, **options)
        if any(folder.glob(f"**/{source.pattern}")):
            break
    return folder


def _format(home: Path, from_tf: bool) -> type[WeightFiles]:
    """The reader of a folder's weights. With `from_tf`, safetensors files are read if there is no
    tf_model.h5."""
    if not home.is_dir():
        return _gguf()
    source = _weight_files(from_tf)
    if not any(home.glob(source.pattern)) and any(home.glob(WeightFiles.pattern)):
        return WeightFiles
    return source


def _gguf() -> type[WeightFiles]:
    from trainer.interop.gguf import GGUFWeights

    return GGUFWeights


def _weight_files(from_tf: bool) -> type[WeightFiles]:
    """The reader for the format of the weights."""
    if not from_tf:
        return WeightFiles
    from trainer.interop.tensorflow_weights import TensorFlowWeights

    return TensorFlowWeights
