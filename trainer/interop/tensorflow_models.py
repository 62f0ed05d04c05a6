"""Keras models that are equivalent to this package's torch models.

Dimensions: B examples of L tokens, C labels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import keras
import tensorflow as tf
import torch
from keras import ops
from torch import nn

from trainer.errors import InputError
from trainer.interop import tensorflow_outputs as outputs
from trainer.interop.tensorflow_inputs import check_inputs, check_integers, check_numbers
from trainer.interop.tensorflow_layers import Encoded, LayerMaker, keras_layer
from trainer.interop.tensorflow_losses import (
    class_losses,
    classification_losses,
    problem_type,
    span_losses,
    token_losses,
)
from trainer.interop.tensorflow_types import KerasData, KerasLayer, TfTensor
from trainer.models.auto import TASKS
from trainer.models.formats.loading import materialize
from trainer.models.outputs import ModelOutput
from trainer.models.pretrained import PretrainedModel
from trainer.models.without_values import without_values

FORMATS = ("safetensors", "tf", "both")
FLAGS = ("output_hidden_states", "output_attentions", "return_dict", "training")

_Inputs = dict[str, Any]


class TFPretrainedModel(keras.Model):
    """A Keras model that is equivalent to a torch model and has the same weights.

    It takes a dict of tensors or keyword arguments, and returns the outputs of the torch model.
    Only the loss differs: it is [B], one value for each example, or [1] if each token has a label.
    If `compile` is called without a loss, `fit` minimizes this loss; labels may then be among the
    inputs or the targets. A loss or metric that is passed to `compile` receives the targets and the
    logits.
    """

    output_class: ClassVar[type[ModelOutput]]
    labels: ClassVar[tuple[str, ...]] = ("labels",)
    """The names of the inputs that hold labels."""
    choices: ClassVar[bool] = False
    """Whether inputs have an axis of choices: [B, choices, L]."""

    def __init__(self, source: PretrainedModel) -> None:
        super().__init__()
        make = LayerMaker(source)
        self.config, self.task = source.config, source.task
        self.body: KerasLayer = keras_layer(make, source.body)
        self.head: KerasLayer = None if source.head is None else keras_layer(make, source.head)
        self._by_torch_name = make.variables
        self.built = True

    def __call__(self, inputs: Any = None, /, **named: Any) -> Any:
        """Compute the outputs; `return_dict=False` gives a tuple of the outputs that are not None.

        Raises InputError, which names the argument, for invalid inputs.
        """
        if isinstance(inputs, Mapping):
            named = {**inputs, **named}
        elif inputs is not None:
            named["input_ids"] = inputs
        flags = {name: named.pop(name) for name in FLAGS if name in named}
        present = {name: value for name, value in named.items() if value is not None}
        tensors = {name: tf.convert_to_tensor(value) for name, value in present.items()}
        check_inputs(tensors, self.config, self.labels, self.choices)
        if set(self.labels) & tensors.keys():
            self._check_labels(tensors)
        return super().__call__(tensors, **flags)

    def call(
        self,
        inputs: _Inputs,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool = True,
        training: bool = False,
    ) -> Any:
        """Compute the outputs from tensors that `__call__` has checked. Flags are as in torch."""
        rows = {name: x for name, x in inputs.items() if name not in self.labels}
        if self.choices:
            rows = {name: ops.reshape(x, (-1, x.shape[-1])) for name, x in rows.items()}
        encoded, visible = self._encode(rows, training)
        fields = self._fields(encoded, visible, inputs, training)
        if _wanted(output_hidden_states, self.config.output_hidden_states):
            states = encoded.hidden_states
            fields["hidden_states"] = tuple(_without_pads(x, visible) for x in states)
        if _wanted(output_attentions, self.config.output_attentions):
            weights = encoded.attentions
            fields["attentions"] = tuple(_without_pads(x, visible[:, None]) for x in weights)
        answer = self.output_class(**fields)
        return answer if return_dict else answer.to_tuple()

    def to_torch(self) -> PretrainedModel:
        """Create a torch model with the same weights, in eval mode."""
        with without_values():
            model = TASKS[self.task](self.config)
        tensors = {}
        for name, variable in self._by_torch_name.items():
            tensor = torch.from_numpy(ops.convert_to_numpy(variable).copy())
            is_linear = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear)
            tensors[name] = tensor.T.contiguous() if is_linear and tensor.dim() == 2 else tensor
        materialize(model, tensors)
        return model.eval()

    def save_pretrained(
        self,
        directory: str | Path,
        max_shard_size: int | str = "5GB",
        format: Literal["safetensors", "tf", "both"] = "safetensors",
        safe_serialization: bool | None = None,
    ) -> None:
        """Save config.json and model.safetensors, or tf_model.h5 if `format` is "tf".

        "both" writes both files. `safe_serialization` is transformers' argument for the format:
        True means "safetensors", and False means "tf". Raises InputError for another format.
        """
        if safe_serialization is not None:
            format = "safetensors" if safe_serialization else "tf"
        if format not in FORMATS:
            raise InputError(f"format: found {format!r}; accepted: {', '.join(FORMATS)}")
        model = self.to_torch()
        for written in ("safetensors", "tf") if format == "both" else (format,):
            model.save_pretrained(directory, max_shard_size, written)  # type: ignore[arg-type]

    def compile(self, *arguments: Any, jit_compile: bool = False, **options: Any) -> None:
        """As in Keras, but by default without XLA, which would recompile for each length."""
        super().compile(*arguments, jit_compile=jit_compile, **options)

    def train_step(self, data: KerasData) -> Any:
        return super().train_step(self._labels_in_place(data))

    def test_step(self, data: KerasData) -> Any:
        return super().test_step(self._labels_in_place(data))

    def predict_step(self, data: KerasData) -> dict[str, TfTensor]:
        inputs, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return dict(self(inputs, training=False).items())

    def predict(self, *arguments: Any, **options: Any) -> Any:
        """As in Keras; returns the model's outputs as numpy arrays."""
        return self.output_class(**super().predict(*arguments, **options))

    def compute_loss(
        self,
        x: TfTensor = None,
        y: TfTensor = None,
        y_pred: TfTensor = None,
        sample_weight: TfTensor = None,
        training: bool = True,
    ) -> Any:
        """The loss that `fit` minimizes: the one passed to `compile`, or the model's mean loss."""
        if self.loss is not None:
            return super().compute_loss(x, y, self._scores(y_pred), sample_weight, training)
        losses = y_pred.loss if sample_weight is None else y_pred.loss * sample_weight
        return ops.mean(losses)

    def compute_metrics(
        self, x: TfTensor, y: TfTensor, y_pred: TfTensor, sample_weight: TfTensor = None
    ) -> TfTensor:
        """Compute the metrics that were passed to `compile` from the logits."""
        return super().compute_metrics(x, y, self._scores(y_pred), sample_weight)

    def _encode(self, rows: _Inputs, training: bool) -> tuple[Encoded, Any]:
        """The body's outputs, and the mask [B, L] that is False at pads."""
        ids, mask = rows["input_ids"], rows.get("attention_mask")
        visible = tf.ones_like(ids, tf.bool) if mask is None else mask != 0
        types = rows.get("token_type_ids", tf.zeros_like(ids))
        positions = rows.get("position_ids")
        positions = self._positions(ids) if positions is None else positions
        return self.body(ids, visible, types, positions, training=training), visible

    def _positions(self, ids: TfTensor) -> TfTensor:
        """The position ids [B, L]; in models like RoBERTa, they start at the pad id + 1."""
        if not self.config.family.positions_after_pad:
            return tf.range(tf.shape(ids)[1])[None]
        pad = self.config.pad_token_id
        real = tf.cast(ids != pad, tf.int32)
        return tf.cumsum(real, axis=1) * real + pad

    def _fields(
        self, encoded: Encoded, visible: TfTensor, inputs: _Inputs, training: bool
    ) -> dict[str, TfTensor]:
        """The output fields of the task, without hidden states and attentions."""
        raise AssertionError

    def _check_labels(self, inputs: _Inputs) -> None:
        """Raise InputError, which names the argument, for labels with a wrong shape or value."""

    def _scores(self, answer: TfTensor) -> TfTensor:
        """The tensors that are passed to the losses and metrics of `compile`."""
        return answer.logits

    def _labels_in_place(self, data: KerasData) -> tuple[_Inputs, TfTensor, TfTensor]:
        """Put the labels into the targets and, for the model's own loss, also into the inputs."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        inputs = dict(x) if isinstance(x, Mapping) else {"input_ids": x}
        labels = {name: inputs.pop(name) for name in self.labels if name in inputs}
        if y is not None:
            labels = dict(y) if isinstance(y, Mapping) else {self.labels[0]: y}
        missing = [name for name in self.labels if name not in labels]
        if missing:
            raise InputError(f"{missing[0]}: missing; accepted: labels, to train or evaluate")
        if self.loss is None:
            inputs |= labels
        return inputs, labels if len(self.labels) > 1 else labels[self.labels[0]], sample_weight


class TFBaseModel(TFPretrainedModel):
    """The Keras version of `trainer.models.heads.bare.BaseModel`."""

    output_class = outputs.TFBaseModelOutput
    labels = ()

    def _fields(
        self, encoded: Encoded, visible: TfTensor, inputs: _Inputs, training: bool
    ) -> dict[str, TfTensor]:
        pooled = None if self.body.pooler is None else encoded.pooled
        return {
            "last_hidden_state": _without_pads(encoded.tokens, visible),
            "pooler_output": pooled,
        }

    def _scores(self, answer: TfTensor) -> TfTensor:
        return answer.last_hidden_state


class TFSequenceClassificationModel(TFPretrainedModel):
    """The Keras version of `SequenceClassificationModel`."""

    output_class = outputs.TFSequenceClassifierOutput

    def _fields(
        self, encoded: Encoded, visible: TfTensor, inputs: _Inputs, training: bool
    ) -> dict[str, TfTensor]:
        logits = self.head(encoded.pooled, training=training)
        if "labels" not in inputs:
            return {"logits": logits}
        loss = classification_losses(logits, inputs["labels"], self.config)
        return {"logits": logits, "loss": loss}

    def _check_labels(self, inputs: _Inputs) -> None:
        labels, (batch_size, _) = inputs["labels"], inputs["input_ids"].shape
        num_labels = self.config.num_labels
        if problem_type(labels, self.config) == "single_label_classification":
            check_integers("labels", labels, (batch_size,), num_labels)
        else:
            check_numbers(labels, (batch_size, num_labels))


class TFTokenClassificationModel(TFPretrainedModel):
    """The Keras version of `TokenClassificationModel`."""

    output_class = outputs.TFTokenClassifierOutput

    def _fields(
        self, encoded: Encoded, visible: TfTensor, inputs: _Inputs, training: bool
    ) -> dict[str, TfTensor]:
        return _token_fields(self.head(encoded.tokens, training=training), visible, inputs)

    def _check_labels(self, inputs: _Inputs) -> None:
        shape = tuple(inputs["input_ids"].shape)
        check_integers("labels", inputs["labels"], shape, self.config.num_labels)


class TFQuestionAnsweringModel(TFPretrainedModel):
    """The Keras version of `QuestionAnsweringModel`."""

    output_class = outputs.TFQuestionAnsweringModelOutput
    labels = ("start_positions", "end_positions")

    def _fields(
        self, encoded: Encoded, visible: TfTensor, inputs: _Inputs, training: bool
    ) -> dict[str, TfTensor]:
        logits = self.head(encoded.tokens, training=training)
        start, end = ops.unstack(_without_pads(logits, visible), axis=-1)
        fields = {"start_logits": start, "end_logits": end}
        if "start_positions" in inputs:
            positions = inputs["start_positions"], inputs["end_positions"]
            fields["loss"] = span_losses(logits, *positions, visible)
        return fields

    def _check_labels(self, inputs: _Inputs) -> None:
        for name in self.labels:
            check_integers(name, inputs[name], (inputs["input_ids"].shape[0],), None)

    def _scores(self, answer: TfTensor) -> TfTensor:
        return {"start_positions": answer.start_logits, "end_positions": answer.end_logits}


class TFMaskedLMModel(TFPretrainedModel):
    """The Keras version of `MaskedLMModel`."""

    output_class = outputs.TFMaskedLMOutput

    def _fields(
        self, encoded: Encoded, visible: TfTensor, inputs: _Inputs, training: bool
    ) -> dict[str, TfTensor]:
        logits = self.head(encoded.tokens, self.body.embeddings.token.embeddings)
        return _token_fields(logits, visible, inputs)

    def _check_labels(self, inputs: _Inputs) -> None:
        shape = tuple(inputs["input_ids"].shape)
        check_integers("labels", inputs["labels"], shape, self.config.vocab_size)


class TFMultipleChoiceModel(TFPretrainedModel):
    """The Keras version of `MultipleChoiceModel`."""

    output_class = outputs.TFMultipleChoiceModelOutput
    choices = True

    def _fields(
        self, encoded: Encoded, visible: TfTensor, inputs: _Inputs, training: bool
    ) -> dict[str, TfTensor]:
        scores = self.head(encoded.pooled, training=training)
        logits = ops.reshape(scores, ops.shape(inputs["input_ids"])[:2])
        if "labels" not in inputs:
            return {"logits": logits}
        return {"logits": logits, "loss": class_losses(logits, inputs["labels"])}

    def _check_labels(self, inputs: _Inputs) -> None:
        batch_size, choices, _ = inputs["input_ids"].shape
        check_integers("labels", inputs["labels"], (batch_size,), choices)


MODELS: dict[str, type[TFPretrainedModel]] = {
    "base": TFBaseModel,
    "masked_lm": TFMaskedLMModel,
    "multiple_choice": TFMultipleChoiceModel,
    "question_answering": TFQuestionAnsweringModel,
    "sequence_classification": TFSequenceClassificationModel,
    "token_classification": TFTokenClassificationModel,
}
"""Task -> class of the Keras model."""


def _token_fields(logits: TfTensor, visible: TfTensor, inputs: _Inputs) -> dict[str, TfTensor]:
    """The output fields of a task that labels each token, from its logits [B, L, C]."""
    fields = {"logits": _without_pads(logits, visible)}
    if "labels" in inputs:
        fields["loss"] = token_losses(logits, inputs["labels"], visible)
    return fields


def _wanted(asked: bool | None, configured: bool) -> bool:
    """Whether a call returns an optional output: its argument `asked` overrides the config."""
    return configured if asked is None else asked


def _without_pads(x: TfTensor, visible: TfTensor) -> TfTensor:
    """Set x [B, (heads,) L, C] to zero at pads, as in the torch models."""
    return x * ops.cast(visible[..., None], x.dtype)
