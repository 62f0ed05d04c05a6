"""Plain recipes: train with a loss function, or with the loss that the model computes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.errors import InputError
from trainer.models.outputs import Outputs
from trainer.tasks.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.data.batch import Batch

NO_SMOOTHING = (
    "trainer.label_smoothing: found {}; accepted: 0, or a recipe=... that computes the loss; loss= "
    "and a model's own loss cannot smooth labels"
)
LABELS = ("labels", "label", "label_ids")
"""The columns of plain rows that may contain the labels."""
SPANS = ("start_positions", "end_positions")
"""The label columns of transformers' question answering models."""


class PlainRecipe(Recipe):
    """The recipe for rows that are passed to the model unchanged.

    Batches are stacked or collated columns (`StackedBatch`). The model's outputs are the
    predictions.
    """


@dataclass(frozen=True)
class LossOnly(PlainRecipe):
    """The recipe of a loss function: `function(outputs, batch)` returns (sum, count)."""

    function: Callable[[Any, Any], tuple["Tensor", "Tensor"]]

    def loss(
        self, outputs: Outputs, batch: "Batch", *, label_smoothing: float = 0.0
    ) -> tuple["Tensor", "Tensor"]:
        from torch import Tensor

        from trainer.devices.precision import in_fp32

        if label_smoothing:
            raise InputError(NO_SMOOTHING.format(label_smoothing))
        found = self.function(in_fp32(outputs), batch)
        if not (isinstance(found, (tuple, list)) and len(found) == 2):
            what = f"{type(found).__name__}, perhaps a mean"
            accepted = (
                "(sum, count), so that the total sum can be divided by the total count of the "
                "global batch; or omit loss= if the model returns its own loss"
            )
            raise InputError(f"loss: the function returned {what}; accepted: {accepted}")
        if not isinstance(found[0], Tensor):
            what = f"{type(found[0]).__name__} as the sum"
            accepted = "a tensor, from which gradients can be computed"
            raise InputError(f"loss: the function returned {what}; accepted: {accepted}")
        return found[0], found[1]


@dataclass(frozen=True)
class OwnLoss(PlainRecipe):
    """The recipe of a model that computes its own loss, a mean over its labels.

    The loss sum is the mean times the number of labels. Labels of -100 do not count. If the model
    predicts the next token (`shifted`), the first label of each row does not count either. The
    count of a batch without labels is its number of samples.
    """

    shifted: bool = False

    def loss(
        self, outputs: Outputs, batch: "Batch", *, label_smoothing: float = 0.0
    ) -> tuple["Tensor", "Tensor"]:
        import torch

        if label_smoothing:
            raise InputError(NO_SMOOTHING.format(label_smoothing))
        loss = own_loss(outputs)
        if loss is None:
            given = ", ".join(batch.inputs())
            raise InputError(
                f"loss: the model returned none for {given}; accepted: rows with the labels that "
                "it computes a loss from, or loss=function of (outputs, batch)"
            )
        count = self._count(batch)
        if not count:  # the mean over no labels is 0/0, and its gradients are not finite
            return _zero(outputs), torch.tensor(0)
        half = loss.dtype in (torch.float16, torch.bfloat16)
        return (loss.float() if half else loss) * count, torch.tensor(count)

    def _count(self, batch: "Batch") -> int:
        """The number of labels in the mean, without waiting for the device."""
        on_host = getattr(batch, "on_host", {})
        name = next((name for name in LABELS if name in batch), "")
        labels = on_host.get(name, batch[name]) if name else None
        if labels is None or labels.is_floating_point():
            return len(batch.sample_ids)
        if self.shifted and labels.ndim > 1:
            labels = labels[..., 1:]
        return int((labels != -100).sum())


def own_loss(outputs: Outputs) -> "Tensor | None":
    """The loss in a model's outputs: `loss` by name, or a first output that is a scalar."""
    from torch import Tensor

    if isinstance(outputs, (tuple, list)):
        found = outputs[0] if outputs else None
    elif isinstance(outputs, Tensor):
        found = outputs
    elif hasattr(outputs, "keys"):
        found = outputs["loss"] if "loss" in outputs.keys() else None  # noqa: SIM118
    else:
        found = getattr(outputs, "loss", None)
    return found.squeeze() if isinstance(found, Tensor) and found.numel() == 1 else None


def _zero(outputs: Outputs) -> "Tensor":
    """A zero that depends on all outputs, so that its backward pass reaches every parameter."""
    import torch

    values = outputs.values() if hasattr(outputs, "values") else outputs
    tensors = [each for each in values if isinstance(each, torch.Tensor) and each.requires_grad]
    chosen = [each for each in tensors if each.numel() > 1] or tensors
    return sum((each.nan_to_num().sum() * 0.0 for each in chosen), torch.zeros(()))
