"""Keras models made after our torch models: called, trained and saved as TensorFlow users do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import keras
import tensorflow as tf
import torch
from keras import ops
from torch import nn

from trainer.errors import InputError
from trainer.interop.tensorflow_inputs import check_inputs, check_integers, check_numbers
from trainer.interop.tensorflow_layers import Encoded, Maker, twin
from trainer.interop.tensorflow_losses import (
    class_losses,
    classification_losses,
    problem_type,
    span_losses,
    token_losses,
)
from trainer.models import outputs
from trainer.models.auto import TASKS
from trainer.models.loading import materialize
from trainer.models.pretrained import PretrainedModel

FLAGS = ("output_hidden_states", "output_attentions", "return_dict", "training")

_Inputs = dict[str, Any]


class TFPretrainedModel(keras.Model):
    """A Keras model that computes what a torch model does, with the same weights.

    It is called with a dict of tensors, or with named ones, and answers with the torch model's
    outputs, but a loss for each example [B]; [1] where labels are per token. `compile` without a
    loss trains on that loss, whose labels may be among the inputs or the targets. A loss or metric
    that is given to `compile` gets the targets and the logits.
    """

    output_class: ClassVar[type[outputs.ModelOutput]]
    labels: ClassVar[tuple[str, ...]] = ("labels",)
    """The names of the inputs that hold labels."""
    choices: ClassVar[bool] = False
    """Whether inputs have an axis for choices: [B, choices, L]."""

    def __init__(self, source: PretrainedModel) -> None:
        super().__init__()
        make = Maker(source)
        self.config, self.task = source.config, source.task
        self.body: Any = twin(make, source.body)
        self.head: Any = None if source.head is None else twin(make, source.head)
        self._by_torch_name = make.variables
        self.built = True

    def __call__(self, inputs: Any = None, /, **named: Any) -> Any:
        """The outputs, or a tuple of those that are set with `return_dict=False`.

        Raises InputError, naming the argument, for inputs that do not fit.
        """
        if isinstance(inputs, Mapping):
            named = {**inputs, **named}
        elif inputs is not None:
            named["input_ids"] = inputs
        flags = {name: named.pop(name) for name in FLAGS if name in named}
        given = {name: value for name, value in named.items() if value is not None}
        tensors = {name: tf.convert_to_tensor(value) for name, value in given.items()}
        check_inputs(tensors, self.config, self.labels, self.choices)
        if set(self.labels) & tensors.keys():
            self._check_labels(tensors)
        return super().__call__(tensors, **flags)

    def call(
        self,
        inputs: _Inputs,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool = True,
        training: bool = False,
    ) -> Any:
        """The computation behind a call, on checked tensors."""
        rows = {name: x for name, x in inputs.items() if name not in self.labels}
        if self.choices:
            rows = {name: ops.reshape(x, (-1, x.shape[-1])) for name, x in rows.items()}
        encoded, visible = self._encode(rows, training)
        fields = self._fields(encoded, visible, inputs, training)
        if output_hidden_states or self.config.output_hidden_states:
            states = encoded.hidden_states
            fields["hidden_states"] = tuple(_without_pads(x, visible) for x in states)
        if output_attentions or self.config.output_attentions:
            weights = encoded.attentions
            fields["attentions"] = tuple(_without_pads(x, visible[:, None]) for x in weights)
        answer = self.output_class(**fields)
        return answer if return_dict else answer.to_tuple()

    def to_torch(self) -> PretrainedModel:
        """A torch model with these weights, in eval mode."""
        with torch.device("meta"):
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
        format: Literal["safetensors", "tf"] = "safetensors",
    ) -> None:
        """As the torch model's: config.json and model.safetensors, or tf_model.h5 for "tf"."""
        self.to_torch().save_pretrained(directory, max_shard_size, format)

    def compile(self, *arguments: Any, jit_compile: bool = False, **options: Any) -> None:
        """As Keras', but without XLA unless asked for: it compiles anew for each length."""
        super().compile(*arguments, jit_compile=jit_compile, **options)

    def train_step(self, data: Any) -> Any:
        return super().train_step(self._labels_in_place(data))

    def test_step(self, data: Any) -> Any:
        return super().test_step(self._labels_in_place(data))

    def predict_step(self, data: Any) -> dict[str, Any]:
        inputs, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return dict(self(inputs, training=False).items())

    def predict(self, *arguments: Any, **options: Any) -> Any:
        """As Keras', with the model's outputs as numpy arrays."""
        return self.output_class(**super().predict(*arguments, **options))

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """What `fit` minimizes: the compiled loss of the logits, or the mean of the model's own."""
        if self.loss is not None:
            return super().compute_loss(x, y, self._scores(y_pred), sample_weight, training)
        losses = y_pred.loss if sample_weight is None else y_pred.loss * sample_weight
        return ops.mean(losses)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The compiled metrics of the logits."""
        return super().compute_metrics(x, y, self._scores(y_pred), sample_weight)

    def _encode(self, rows: _Inputs, training: bool) -> tuple[Encoded, Any]:
        """The body's answer, and which tokens [B, L] are there."""
        ids, mask = rows["input_ids"], rows.get("attention_mask")
        visible = tf.ones_like(ids, tf.bool) if mask is None else mask != 0
        types = rows.get("token_type_ids", tf.zeros_like(ids))
        positions = rows.get("position_ids")
        positions = self._positions(ids) if positions is None else positions
        return self.body(ids, visible, types, positions, training=training), visible

    def _positions(self, ids: Any) -> Any:
        """[B, L]: the columns, or for RoBERTa's kind the places of real tokens after the pad's."""
        if not self.config.family.positions_after_pad:
            return tf.range(tf.shape(ids)[1])[None]
        pad = self.config.pad_token_id
        real = tf.cast(ids != pad, tf.int32)
        return tf.cumsum(real, axis=1) * real + pad

    def _fields(
        self, encoded: Encoded, visible: Any, inputs: _Inputs, training: bool
    ) -> dict[str, Any]:
        """The output's fields but for hidden states and attentions: each task's own."""
        raise AssertionError

    def _check_labels(self, inputs: _Inputs) -> None:
        """Raises InputError, naming the argument, for labels that do not fit."""

    def _scores(self, answer: Any) -> Any:
        """What compiled losses and metrics are given."""
        return answer.logits

    def _labels_in_place(self, data: Any) -> tuple[_Inputs, Any, Any]:
        """Labels among the inputs for the model's own loss, and the targets for compiled ones."""
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
    """As `trainer.models.heads.BaseModel`."""

    output_class = outputs.BaseModelOutput
    labels = ()

    def _fields(
        self, encoded: Encoded, visible: Any, inputs: _Inputs, training: bool
    ) -> dict[str, Any]:
        pooled = None if self.body.pooler is None else encoded.pooled
        return {
            "last_hidden_state": _without_pads(encoded.tokens, visible),
            "pooler_output": pooled,
        }

    def _scores(self, answer: Any) -> Any:
        return answer.last_hidden_state


class TFSequenceClassificationModel(TFPretrainedModel):
    """As `trainer.models.heads.SequenceClassificationModel`."""

    output_class = outputs.SequenceClassifierOutput

    def _fields(
        self, encoded: Encoded, visible: Any, inputs: _Inputs, training: bool
    ) -> dict[str, Any]:
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
    """As `trainer.models.heads.TokenClassificationModel`."""

    output_class = outputs.TokenClassifierOutput

    def _fields(
        self, encoded: Encoded, visible: Any, inputs: _Inputs, training: bool
    ) -> dict[str, Any]:
        return _token_fields(self.head(encoded.tokens, training=training), visible, inputs)

    def _check_labels(self, inputs: _Inputs) -> None:
        shape = tuple(inputs["input_ids"].shape)
        check_integers("labels", inputs["labels"], shape, self.config.num_labels)


class TFQuestionAnsweringModel(TFPretrainedModel):
    """As `trainer.models.heads.QuestionAnsweringModel`."""

    output_class = outputs.QuestionAnsweringModelOutput
    labels = ("start_positions", "end_positions")

    def _fields(
        self, encoded: Encoded, visible: Any, inputs: _Inputs, training: bool
    ) -> dict[str, Any]:
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

    def _scores(self, answer: Any) -> Any:
        return {"start_positions": answer.start_logits, "end_positions": answer.end_logits}


class TFMaskedLMModel(TFPretrainedModel):
    """As `trainer.models.heads.MaskedLMModel`."""

    output_class = outputs.MaskedLMOutput

    def _fields(
        self, encoded: Encoded, visible: Any, inputs: _Inputs, training: bool
    ) -> dict[str, Any]:
        logits = self.head(encoded.tokens, self.body.embeddings.token.embeddings)
        return _token_fields(logits, visible, inputs)

    def _check_labels(self, inputs: _Inputs) -> None:
        shape = tuple(inputs["input_ids"].shape)
        check_integers("labels", inputs["labels"], shape, self.config.vocab_size)


class TFMultipleChoiceModel(TFPretrainedModel):
    """As `trainer.models.heads.MultipleChoiceModel`."""

    output_class = outputs.MultipleChoiceModelOutput
    choices = True

    def _fields(
        self, encoded: Encoded, visible: Any, inputs: _Inputs, training: bool
    ) -> dict[str, Any]:
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
"""Task -> Keras model."""


def _token_fields(logits: Any, visible: Any, inputs: _Inputs) -> dict[str, Any]:
    """The output's fields of a task with a label for each token: logits [B, L, C]."""
    fields = {"logits": _without_pads(logits, visible)}
    if "labels" in inputs:
        fields["loss"] = token_losses(logits, inputs["labels"], visible)
    return fields


def _without_pads(x: Any, visible: Any) -> Any:
    """x [B, (heads,) L, C] with zeros at pads, as our torch models give it."""
    return x * ops.cast(visible[..., None], x.dtype)
