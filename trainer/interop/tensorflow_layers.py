"""Keras layers that mirror the torch modules of the encoder and the heads."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import keras
import torch
from keras import ops
from torch import nn

from trainer.errors import InputError
from trainer.interop.tensorflow_types import KerasLayer, TfTensor
from trainer.models.attention.self_attention import Attention
from trainer.models.blocks import activations, encoder
from trainer.models.blocks.dropout import Dropout
from trainer.models.heads import layers as head_layers

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": partial(ops.gelu, approximate=False),
    "gelu_new": partial(ops.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(ops.gelu, approximate=True),
    "relu": ops.relu,
    "silu": ops.silu,
    "tanh": ops.tanh,
}
"""The hub's activation names -> Keras functions."""


class LayerMaker:
    """Creates Keras layers from the modules of a torch model, with the modules' weights.

    `variables` maps the names of the model's parameters to Keras variables. The kernel of a linear
    layer is the transpose of the torch weight.
    """

    def __init__(self, model: nn.Module) -> None:
        self.variables: dict[str, Any] = {}
        self._names: dict[torch.Tensor, str] = {
            parameter: name for name, parameter in model.named_parameters()
        }

    def linear(self, module: nn.Linear) -> KerasLayer:
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

    def embedding(self, module: nn.Embedding) -> KerasLayer:
        layer = keras.layers.Embedding(
            module.num_embeddings,
            module.embedding_dim,
            embeddings_initializer="zeros",
            name=self._layer_name(module),
        )
        layer.build((None,))
        self._fill(layer.embeddings, module.weight, module.weight)
        return layer

    def norm(self, module: nn.LayerNorm) -> KerasLayer:
        layer = keras.layers.LayerNormalization(
            epsilon=module.eps, center=module.bias is not None, name=self._layer_name(module)
        )
        layer.build((None, *module.normalized_shape))
        self._fill(layer.gamma, module.weight, module.weight)
        if module.bias is not None:
            self._fill(layer.beta, module.bias, module.bias)
        return layer

    def bias(self, layer: KerasLayer, parameter: nn.Parameter) -> KerasLayer:
        """Add a bias vector to a layer, and return the variable."""
        variable = layer.add_weight(shape=tuple(parameter.shape), initializer="zeros", name="bias")
        self._fill(variable, parameter, parameter)
        return variable

    def dropout(self, module: Dropout) -> KerasLayer:
        return keras.layers.Dropout(module.p)

    def activation(self, function: Any) -> Callable[[Any], Any]:
        """The Keras function for one of `trainer.models.blocks.activations.ACTIVATIONS`."""
        names = [name for name, each in activations.ACTIVATIONS.items() if each is function]
        return ACTIVATIONS[names[0]]

    def _layer_name(self, module: nn.Module) -> str:
        """The module's path, which makes the paths of Keras variables unique and readable."""
        return self._names[next(module.parameters())].rpartition(".")[0]

    def _fill(self, variable: Any, parameter: torch.Tensor, value: torch.Tensor) -> None:
        variable.assign(value.detach().float().cpu().numpy())
        self.variables[self._names[parameter]] = variable


def keras_layer(make: LayerMaker, module: nn.Module) -> KerasLayer:
    """Create the Keras layer for a body or a head. Raises InputError if it has no equivalent."""
    if type(module) not in EQUIVALENTS:
        accepted = ", ".join(each.__name__ for each in EQUIVALENTS)
        raise InputError(
            f"TensorFlow: there is no Keras layer for {type(module).__name__}; "
            f"accepted: models of {accepted}"
        )
    return EQUIVALENTS[type(module)](make, module)


class Encoded(NamedTuple):
    """The encoder's outputs for B sequences padded to L tokens."""

    tokens: TfTensor
    """The last hidden states [B, L, D], including those of pads."""
    pooled: TfTensor
    """The pooler's output [B, D], or the states of the first tokens if there is no pooler."""
    hidden_states: tuple[TfTensor, ...]
    """The states [B, L, D] before the first layer and after each layer."""
    attentions: tuple[TfTensor, ...]
    """The attention probabilities [B, heads, L, L] of each layer."""


class TFEncoder(keras.layers.Layer):
    """The Keras version of `trainer.models.blocks.encoder.Encoder`, for padded batches."""

    def __init__(self, make: LayerMaker, source: encoder.Encoder) -> None:
        super().__init__(name="body")
        assert isinstance(source.embeddings, encoder.Embeddings)
        self.embeddings = TFEmbeddings(make, source.embeddings)
        layers: KerasLayer = source.layers
        self.blocks = [TFEncoderLayer(make, layer) for layer in layers]
        self.pooler = None if source.pooler is None else make.linear(source.pooler.dense)

    def call(
        self,
        input_ids: TfTensor,
        visible: TfTensor,
        types: TfTensor,
        positions: TfTensor,
        training: bool = False,
    ) -> Encoded:
        """Encode `input_ids` with their `types` and `positions`, all [B, L].

        `visible` [B, L] bool is False at pads.
        """
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
    """The Keras version of `trainer.models.blocks.encoder.Embeddings`."""

    def __init__(self, make: LayerMaker, source: encoder.Embeddings) -> None:
        super().__init__()
        assert source.position is not None
        self.token = make.embedding(source.token)
        self.position = make.embedding(source.position)
        types = source.token_type
        self.token_type = None if types is None else make.embedding(types)
        self.norm = make.norm(source.norm)
        self.dropout = make.dropout(source.dropout)

    def call(
        self, input_ids: TfTensor, types: TfTensor, positions: TfTensor, training: bool = False
    ) -> TfTensor:
        x = self.token(input_ids) + self.position(positions)
        if self.token_type is not None:
            x = x + self.token_type(types)
        return self.dropout(self.norm(x), training=training)


class TFEncoderLayer(keras.layers.Layer):
    """The Keras version of `trainer.models.blocks.encoder.EncoderLayer`."""

    def __init__(self, make: LayerMaker, source: encoder.EncoderLayer) -> None:
        super().__init__()
        attention, feed_forward = source.attention, source.feed_forward
        assert isinstance(attention, Attention) and isinstance(feed_forward, encoder.FeedForward)
        self.attention = TFAttention(make, attention)
        self.attention_dropout = make.dropout(source.attention_dropout)
        self.attention_norm = make.norm(source.attention_norm)
        self.intermediate = make.linear(feed_forward.input)
        self.activation = make.activation(feed_forward.activation)
        self.output_dense = make.linear(feed_forward.output)
        self.dropout = make.dropout(source.feed_forward_dropout)
        self.norm = make.norm(source.feed_forward_norm)

    def call(
        self, x: TfTensor, visible: TfTensor, training: bool = False
    ) -> tuple[TfTensor, TfTensor]:
        """Map x [B, L, D] to new states [B, L, D] and attention probabilities [B, heads, L, L]."""
        attended, weights = self.attention(x, visible, training=training)
        x = self.attention_norm(x + self.attention_dropout(attended, training=training))
        fed = self.output_dense(self.activation(self.intermediate(x)))
        return self.norm(x + self.dropout(fed, training=training)), weights


class TFAttention(keras.layers.Layer):
    """The Keras version of `trainer.models.attention.self_attention.Attention`."""

    def __init__(self, make: LayerMaker, source: Attention) -> None:
        super().__init__()
        self.num_heads, self.channels = source.num_heads, source.channels
        self.query, self.key, self.value = (
            make.linear(part) for part in (source.query, source.key, source.value)
        )
        self.output_dense = make.linear(source.output)
        self.dropout = make.dropout(source.dropout)

    def call(
        self, x: TfTensor, visible: TfTensor, training: bool = False
    ) -> tuple[TfTensor, TfTensor]:
        query, key, value = (self._heads(part(x)) for part in (self.query, self.key, self.value))
        scores = ops.matmul(query * self.channels**-0.5, ops.swapaxes(key, 2, 3))
        # the minimum becomes zero in the softmax; -inf would make a fully masked row NaN
        scores = ops.where(visible[:, None, None, :], scores, scores.dtype.min)
        weights = self.dropout(ops.softmax(scores), training=training)
        context = ops.swapaxes(ops.matmul(weights, value), 1, 2)
        return self.output_dense(ops.reshape(context, ops.shape(x))), weights

    def _heads(self, x: TfTensor) -> TfTensor:
        """Split the channels into heads: [B, L, D] -> [B, heads, L, channels]."""
        batch_size, length, _ = ops.shape(x)
        split = ops.reshape(x, (batch_size, length, self.num_heads, self.channels))
        return ops.swapaxes(split, 1, 2)


class TFClassificationHead(keras.layers.Layer):
    """The Keras version of `trainer.models.heads.layers.ClassificationHead`."""

    def __init__(self, make: LayerMaker, source: head_layers.ClassificationHead) -> None:
        super().__init__(name="head")
        self.dense = None if source.dense is None else make.linear(source.dense)
        self.activation = None if source.dense is None else make.activation(source.activation)
        self.dropout = make.dropout(source.dropout)
        self.classifier = make.linear(source.classifier)

    def call(self, pooled: TfTensor, training: bool = False) -> TfTensor:
        if self.dense is not None and self.activation is not None:
            pooled = self.activation(self.dense(pooled))
        return self.classifier(self.dropout(pooled, training=training))


class TFDenseClassificationHead(keras.layers.Layer):
    """The Keras version of `trainer.models.heads.layers.DenseClassificationHead`."""

    def __init__(self, make: LayerMaker, source: head_layers.DenseClassificationHead) -> None:
        super().__init__(name="head")
        self.dropout_before = make.dropout(source.dropout_before)
        self.dense = make.linear(source.dense)
        self.activation = make.activation(source.activation)
        self.dropout = make.dropout(source.dropout)
        self.classifier = make.linear(source.classifier)

    def call(self, first: TfTensor, training: bool = False) -> TfTensor:
        dense = self.activation(self.dense(self.dropout_before(first, training=training)))
        return self.classifier(self.dropout(dense, training=training))


class TFTokenHead(keras.layers.Layer):
    """The Keras version of `trainer.models.heads.layers.TokenHead`."""

    def __init__(self, make: LayerMaker, source: head_layers.TokenHead) -> None:
        super().__init__(name="head")
        self.dropout = make.dropout(source.dropout)
        self.classifier = make.linear(source.classifier)

    def call(self, tokens: TfTensor, training: bool = False) -> TfTensor:
        return self.classifier(self.dropout(tokens, training=training))


class TFMaskedLMHead(keras.layers.Layer):
    """The Keras version of `trainer.models.heads.layers.MaskedLMHead`."""

    def __init__(self, make: LayerMaker, source: head_layers.MaskedLMHead) -> None:
        if source.bias is None:
            raise InputError(
                "model.config: tie_word_embeddings: found False; accepted in TensorFlow: True"
            )
        super().__init__(name="head")
        self.dense = make.linear(source.dense)
        self.activation = make.activation(source.activation)
        self.norm = make.norm(source.norm)
        self.bias = make.bias(self, source.bias)

    def call(self, tokens: TfTensor, embeddings: TfTensor) -> TfTensor:
        """Compute logits [B, L, vocab_size] of tokens [B, L, D]; embeddings are [vocab_size, D]."""
        x = self.norm(self.activation(self.dense(tokens)))
        return ops.matmul(x, ops.transpose(embeddings)) + self.bias


EQUIVALENTS: dict[type[nn.Module], Callable[[LayerMaker, Any], Any]] = {
    encoder.Encoder: TFEncoder,
    head_layers.ClassificationHead: TFClassificationHead,
    head_layers.DenseClassificationHead: TFDenseClassificationHead,
    head_layers.MaskedLMHead: TFMaskedLMHead,
    head_layers.TokenHead: TFTokenHead,
}
"""Class of a torch module -> class of the equivalent Keras layer."""
