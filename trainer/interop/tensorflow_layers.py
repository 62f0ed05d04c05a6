"""Keras layers made after the encoder's and the heads' torch modules, one for one."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import keras
import torch
from keras import ops
from torch import nn

from trainer.errors import InputError
from trainer.models import encoder, head_layers, roberta_format
from trainer.models.attention import Attention
from trainer.models.dropout import Dropout

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": partial(ops.gelu, approximate=False),
    "gelu_new": partial(ops.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(ops.gelu, approximate=True),
    "relu": ops.relu,
    "silu": ops.silu,
    "tanh": ops.tanh,
}
"""The hub's names of activations -> Keras' functions."""


class Maker:
    """Makes Keras layers after the modules of a torch model, with their weights.

    `variables` tells which variable stands for which of the model's parameters; a Linear's kernel
    is the transpose of its weight.
    """

    def __init__(self, model: nn.Module) -> None:
        self.variables: dict[str, Any] = {}
        self._names: dict[torch.Tensor, str] = {
            parameter: name for name, parameter in model.named_parameters()
        }

    def linear(self, module: nn.Linear) -> Any:
        layer = keras.layers.Dense(
            module.out_features,
            use_bias=module.bias is not None,
            kernel_initializer="zeros",
            name=self._layer_name(module),
        )
        layer.build((None, module.in_features))
        self._fill(layer.kernel, module.weight, module.weight.T)
        if module.bias is not None:
            self._fill(layer.bias, module.bias, module.bias)
        return layer

    def embedding(self, module: nn.Embedding) -> Any:
        layer = keras.layers.Embedding(
            module.num_embeddings,
            module.embedding_dim,
            embeddings_initializer="zeros",
            name=self._layer_name(module),
        )
        layer.build((None,))
        self._fill(layer.embeddings, module.weight, module.weight)
        return layer

    def norm(self, module: nn.LayerNorm) -> Any:
        layer = keras.layers.LayerNormalization(
            epsilon=module.eps, center=module.bias is not None, name=self._layer_name(module)
        )
        layer.build((None, *module.normalized_shape))
        self._fill(layer.gamma, module.weight, module.weight)
        if module.bias is not None:
            self._fill(layer.beta, module.bias, module.bias)
        return layer

    def bias(self, layer: Any, parameter: nn.Parameter) -> Any:
        """A vector of a layer's own."""
        variable = layer.add_weight(shape=tuple(parameter.shape), initializer="zeros", name="bias")
        self._fill(variable, parameter, parameter)
        return variable

    def dropout(self, module: Dropout) -> Any:
        return keras.layers.Dropout(module.p)

    def activation(self, function: Any) -> Callable[[Any], Any]:
        """Keras' function for one of `trainer.models.encoder.ACTIVATIONS`."""
        names = [name for name, each in encoder.ACTIVATIONS.items() if each is function]
        return ACTIVATIONS[names[0]]

    def _layer_name(self, module: nn.Module) -> str:
        """Our module's path, which makes the paths of variables tell and differ."""
        return self._names[next(module.parameters())].rpartition(".")[0]

    def _fill(self, variable: Any, parameter: torch.Tensor, value: torch.Tensor) -> None:
        variable.assign(value.detach().float().cpu().numpy())
        self.variables[self._names[parameter]] = variable


def twin(make: Maker, module: nn.Module) -> Any:
    """The Keras layer of a body or a head. Raises InputError for a module that has none."""
    if type(module) not in TWINS:
        accepted = ", ".join(each.__name__ for each in TWINS)
        raise InputError(
            f"TensorFlow: no Keras layer computes what {type(module).__name__} does; "
            f"accepted: models of {accepted}"
        )
    return TWINS[type(module)](make, module)


class Encoded(NamedTuple):
    """What the encoder makes of B sequences of width L."""

    tokens: Any
    """[B, L, D], also at pads"""
    pooled: Any
    """[B, D], the pooler's output, or the first tokens where there is none"""
    hidden_states: tuple[Any, ...]
    """layers + 1 tensors [B, L, D]"""
    attentions: tuple[Any, ...]
    """layers tensors [B, heads, L, L]"""


class TFEncoder(keras.layers.Layer):
    """As `trainer.models.encoder.Encoder`, over padded batches."""

    def __init__(self, make: Maker, source: encoder.Encoder) -> None:
        super().__init__(name="body")
        self.embeddings = TFEmbeddings(make, source.embeddings)
        layers: Any = source.layers
        self.blocks = [TFEncoderLayer(make, layer) for layer in layers]
        self.pooler = None if source.pooler is None else make.linear(source.pooler.dense)

    def call(
        self, input_ids: Any, visible: Any, types: Any, positions: Any, training: bool = False
    ) -> Encoded:
        """Ids, positions and types [B, L]; visible [B, L] bool."""
        x = self.embeddings(input_ids, types, positions, training=training)
        hidden_states, attentions = [x], []
        for block in self.blocks:
            x, weights = block(x, visible, training=training)
            hidden_states.append(x)
            attentions.append(weights)
        first = x[:, 0]
        pooled = first if self.pooler is None else ops.tanh(self.pooler(first))
        return Encoded(x, pooled, tuple(hidden_states), tuple(attentions))


class TFEmbeddings(keras.layers.Layer):
    """As `trainer.models.encoder.Embeddings`."""

    def __init__(self, make: Maker, source: encoder.Embeddings) -> None:
        super().__init__()
        self.token = make.embedding(source.token)
        self.position = make.embedding(source.position)
        types = source.token_type
        self.token_type = None if types is None else make.embedding(types)
        self.norm = make.norm(source.norm)
        self.dropout = make.dropout(source.dropout)

    def call(self, input_ids: Any, types: Any, positions: Any, training: bool = False) -> Any:
        x = self.token(input_ids) + self.position(positions)
        if self.token_type is not None:
            x = x + self.token_type(types)
        return self.dropout(self.norm(x), training=training)


class TFEncoderLayer(keras.layers.Layer):
    """As `trainer.models.encoder.EncoderLayer`."""

    def __init__(self, make: Maker, source: encoder.EncoderLayer) -> None:
        super().__init__()
        self.attention = TFAttention(make, source.attention)
        self.attention_dropout = make.dropout(source.attention_dropout)
        self.attention_norm = make.norm(source.attention_norm)
        self.intermediate = make.linear(source.feed_forward.input)
        self.activation = make.activation(source.feed_forward.activation)
        self.output_dense = make.linear(source.feed_forward.output)
        self.dropout = make.dropout(source.feed_forward_dropout)
        self.norm = make.norm(source.feed_forward_norm)

    def call(self, x: Any, visible: Any, training: bool = False) -> tuple[Any, Any]:
        """x [B, L, D] -> ([B, L, D], probabilities [B, heads, L, L])."""
        attended, weights = self.attention(x, visible, training=training)
        x = self.attention_norm(x + self.attention_dropout(attended, training=training))
        fed = self.output_dense(self.activation(self.intermediate(x)))
        return self.norm(x + self.dropout(fed, training=training)), weights


class TFAttention(keras.layers.Layer):
    """As `trainer.models.attention.Attention`."""

    def __init__(self, make: Maker, source: Attention) -> None:
        super().__init__()
        self.num_heads, self.channels = source.num_heads, source.channels
        self.query, self.key, self.value = (
            make.linear(part) for part in (source.query, source.key, source.value)
        )
        self.output_dense = make.linear(source.output)
        self.dropout = make.dropout(source.dropout)

    def call(self, x: Any, visible: Any, training: bool = False) -> tuple[Any, Any]:
        query, key, value = (self._heads(part(x)) for part in (self.query, self.key, self.value))
        scores = ops.matmul(query * self.channels**-0.5, ops.swapaxes(key, 2, 3))
        # Not -inf: a row that sees nothing would be NaN. Its exponential is zero all the same.
        scores = ops.where(visible[:, None, None, :], scores, scores.dtype.min)
        weights = self.dropout(ops.softmax(scores), training=training)
        context = ops.swapaxes(ops.matmul(weights, value), 1, 2)
        return self.output_dense(ops.reshape(context, ops.shape(x))), weights

    def _heads(self, x: Any) -> Any:
        """[B, L, D] -> [B, heads, L, channels]."""
        batch_size, length, _ = ops.shape(x)
        split = ops.reshape(x, (batch_size, length, self.num_heads, self.channels))
        return ops.swapaxes(split, 1, 2)


class TFClassificationHead(keras.layers.Layer):
    """As `trainer.models.head_layers.ClassificationHead`."""

    def __init__(self, make: Maker, source: head_layers.ClassificationHead) -> None:
        super().__init__(name="head")
        self.dense = None if source.dense is None else make.linear(source.dense)
        self.activation = None if source.dense is None else make.activation(source.activation)
        self.dropout = make.dropout(source.dropout)
        self.classifier = make.linear(source.classifier)

    def call(self, pooled: Any, training: bool = False) -> Any:
        if self.dense is not None and self.activation is not None:
            pooled = self.activation(self.dense(pooled))
        return self.classifier(self.dropout(pooled, training=training))


class TFRobertaClassificationHead(keras.layers.Layer):
    """As `trainer.models.roberta_format.RobertaClassificationHead`."""

    def __init__(self, make: Maker, source: roberta_format.RobertaClassificationHead) -> None:
        super().__init__(name="head")
        self.dropout_before = make.dropout(source.dropout_before)
        self.dense = make.linear(source.dense)
        self.dropout = make.dropout(source.dropout)
        self.classifier = make.linear(source.classifier)

    def call(self, first: Any, training: bool = False) -> Any:
        dense = ops.tanh(self.dense(self.dropout_before(first, training=training)))
        return self.classifier(self.dropout(dense, training=training))


class TFTokenHead(keras.layers.Layer):
    """As `trainer.models.head_layers.TokenHead`."""

    def __init__(self, make: Maker, source: head_layers.TokenHead) -> None:
        super().__init__(name="head")
        self.dropout = make.dropout(source.dropout)
        self.classifier = make.linear(source.classifier)

    def call(self, tokens: Any, training: bool = False) -> Any:
        return self.classifier(self.dropout(tokens, training=training))


class TFMaskedLMHead(keras.layers.Layer):
    """As `trainer.models.head_layers.MaskedLMHead`."""

    def __init__(self, make: Maker, source: head_layers.MaskedLMHead) -> None:
        super().__init__(name="head")
        self.dense = make.linear(source.dense)
        self.activation = make.activation(source.activation)
        self.norm = make.norm(source.norm)
        self.bias = make.bias(self, source.bias)

    def call(self, tokens: Any, embeddings: Any) -> Any:
        """tokens [B, L, D], embeddings [vocab_size, D] -> logits [B, L, vocab_size]."""
        x = self.norm(self.activation(self.dense(tokens)))
        return ops.matmul(x, ops.transpose(embeddings)) + self.bias


TWINS: dict[type[nn.Module], Callable[[Maker, Any], Any]] = {
    encoder.Encoder: TFEncoder,
    head_layers.ClassificationHead: TFClassificationHead,
    head_layers.MaskedLMHead: TFMaskedLMHead,
    head_layers.TokenHead: TFTokenHead,
    roberta_format.RobertaClassificationHead: TFRobertaClassificationHead,
}
"""Torch module -> the Keras layer that computes the same."""
