"""KnownParts: the parts of a model under transformers' names."""

from typing import Any, ClassVar, cast

from torch import nn

from trainer.errors import InputError
from trainer.models.family import family_of, find_heads
from trainer.models.family_classes import of_family
from trainer.models.family_model import FamilyModel
from trainer.models.quantization.quantized_linear import sizes_of_parameters
from trainer.models.without_values import without_values


class KnownParts(FamilyModel):
    """The bare model under a head, its embeddings and output weights, and related attributes.

    transformers' Trainer, PEFT and accelerate read these attributes.
    """

    supports_gradient_checkpointing: ClassVar[bool] = True
    accepts_loss_kwargs: ClassVar[bool] = False
    """Whether the loss takes `num_items_in_batch`; transformers' Trainer checks it."""
    loss_type: ClassVar[str | None] = None
    """transformers' name of the loss; with ForCausalLM, its Trainer counts shifted labels."""
    main_input_name: ClassVar[str] = "input_ids"
    _keys_to_ignore_on_save: ClassVar[None] = None
    _keys_to_ignore_on_load_missing: ClassVar[None] = None
    _keys_to_ignore_on_load_unexpected: ClassVar[None] = None
    _keep_in_fp32_modules: ClassVar[frozenset[str]] = frozenset()
    _keep_in_fp32_modules_strict: ClassVar[frozenset[str]] = frozenset()
    _supports_sdpa: ClassVar[bool] = True
    _supports_flash_attn: ClassVar[bool] = True
    _supports_flex_attn: ClassVar[bool] = True

    @property
    def base_model_prefix(self) -> str:
        """The bare model's attribute name in transformers, such as bert, model or transformer."""
        return self.family.prefix

    @property
    def base_model(self) -> FamilyModel:
        """The bare model, with shared parameters; the model itself if it has no head."""
        if self.task == "base":
            return self
        kind = of_family(cast(type[FamilyModel], find_heads()["base"]), family_of(self.config))
        bare = object.__new__(kind)
        vars(bare).update(vars(self))
        modules = {**self._modules, "head": None}
        vars(bare)["_modules"] = modules
        return bare

    @property
    def name_or_path(self) -> str:
        """Where the weights were loaded from."""
        return self.source[0]

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether the backward pass recomputes the layers."""
        return self.body.gradient_checkpointing

    @property
    def is_activation_checkpointing(self) -> bool:
        """transformers 5's name for `is_gradient_checkpointing`."""
        return self.is_gradient_checkpointing

    @classmethod
    def can_generate(cls) -> bool:
        """Whether models of this class have `generate`."""
        return hasattr(cls, "generate")

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Set the kernel's name, which has no effect. Raises InputError for unknown names."""
        self.config._attn_implementation = attn_implementation

    def post_init(self) -> None:
        """Do nothing: the constructor completes a model."""

    def tie_weights(self, *_: object, **__: object) -> None:
        """Do nothing: tied weights are always a single parameter."""

    def enable_input_require_grads(self) -> None:
        """Do nothing: non-reentrant checkpointing needs no inputs with gradients."""

    def disable_input_require_grads(self) -> None:
        """Do nothing, like `enable_input_require_grads`."""

    def add_model_tags(self, tags: list[str] | str) -> None:
        """Do nothing: model cards contain no tags."""

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token embeddings [vocab_size, D], and output weights that are tied to them.

        Raises InputError unless `value` is an embedding of the model's width. If the head has a row
        for each token, the number of tokens must not change either.
        """
        old = self.get_input_embeddings()
        width = old.embedding_dim
        if not isinstance(value, nn.Embedding) or value.embedding_dim != width:
            raise InputError(f"value: found {value}; accepted: nn.Embedding(vocab_size, {width})")
        if value.num_embeddings != old.num_embeddings and self.output_parameters:
            raise InputError(
                f"value: found {value.num_embeddings} tokens; accepted: {old.num_embeddings}, as "
                "the head has (resize_token_embeddings changes both)"
            )
        self.config.vocab_size = value.num_embeddings  # refuses one that drops the pad token
        self.body.embed.token = value
        self.resized = self.resized or value.num_embeddings != old.num_embeddings

    def get_output_embeddings(self) -> nn.Linear | None:
        """The linear layer from hidden states to logits of a language model; None for other models.

        With tied weights, and in an encoder-decoder, it is a new layer around the same parameter.
        """
        if not self.vocabulary:
            return None
        if (own := self._own_output) is not None:
            return own
        own_weight = self._own_weight
        weight = self.get_input_embeddings().weight if own_weight is None else own_weight
        with without_values():
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight = weight
        if "bias" in self.vocabulary:
            layer.bias = self.head.bias
        return layer

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the output weights. Raises InputError if they are tied or of another shape."""
        old = self.get_output_embeddings()
        if old is None:
            raise InputError(f"model: {self.architecture} has no output embeddings")
        if new_embeddings.weight.shape != old.weight.shape:
            found, accepted = tuple(new_embeddings.weight.shape), tuple(old.weight.shape)
            raise InputError(f"new_embeddings: found {found}; accepted: {accepted}")
        if self._own_output is not None and self._own_output is self.head:
            self.head = new_embeddings
        elif self._own_output is not None:
            self.head.decoder = new_embeddings
        elif self._own_weight is not None:
            self.head.weight = new_embeddings.weight
        elif new_embeddings.weight is not old.weight:
            raise InputError(
                "new_embeddings: found other weights than the token embeddings, which this model "
                "ties them to; accepted: set_input_embeddings, or load the model with "
                "tie_word_embeddings=False"
            )
        elif "bias" in self.vocabulary and new_embeddings.bias is not None:
            self.head.bias = new_embeddings.bias

    @property
    def _own_output(self) -> nn.Linear | None:
        """The output layer of a language model; None if it is tied to the embeddings."""
        inside = getattr(self.head, "decoder", None)
        layer = self.head if inside is None else inside
        return layer if isinstance(layer, nn.Linear) else None

    @property
    def _own_weight(self) -> nn.Parameter | None:
        """The output weights of an encoder-decoder's head; None if they are tied, or in a layer."""
        found = getattr(self.head, "weight", None)
        return found if isinstance(found, nn.Parameter) else None

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """The number of parameters; shared parameters count once."""
        left_out = {
            id(module.weight)
            for module in self.modules()
            if exclude_embeddings and isinstance(module, nn.Embedding)
        }
        return sum(
            size
            for parameter, size in sizes_of_parameters(self).items()
            if id(parameter) not in left_out and (parameter.requires_grad or not only_trainable)
        )

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """The bytes of all parameters and, unless `return_buffers` is false, of all buffers."""
        found = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(each.nelement() * each.element_size() for each in found)

    def floating_point_ops(self, inputs: dict[str, Any], exclude_embeddings: bool = True) -> int:
        """An estimate of a training step's FLOPs on a batch: 6 per token and parameter."""
        tokens: int = inputs[self.main_input_name].numel()
        return 6 * tokens * self.num_parameters(exclude_embeddings=exclude_embeddings)

    def __getattr__(self, name: str) -> Any:
        """Return the bare model under the head for its name in transformers, as in `model.bert`."""
        config = vars(self).get("config")
        if config is not None and name == family_of(config).prefix and self.task != "base":
            return self.base_model
        return super().__getattr__(name)
