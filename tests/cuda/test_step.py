"""An optimizer step on a GPU is launched without waiting; its facts are read a step late."""

import pytest
import torch

from recipes.sequence_classification import SequenceClassification
from tests.cuda.device import CUDA, Device
from tests.cuda.models import batch_of, model_of
from trainer.models.pretrained import PretrainedModel
from trainer.optim import ExponentialMovingAverage, build_optimizer
from trainer.ranks import Ranks
from trainer.settings import TrainSettings
from trainer.step import Stepper

RECIPE = SequenceClassification(problem="single_label", labels=["a", "b"])


def stepper_of(model: PretrainedModel, precision: str = "bf16", **settings) -> Stepper:
    named = list(model.named_parameters())
    return Stepper(
        model,
        RECIPE,
        build_optimizer(named, TrainSettings(**settings)),
        ranks=Ranks(CUDA),
        global_batch_size=4,
        precision=precision,
        max_grad_norm=1.0,
        ema=ExponentialMovingAverage(named, 0.9),
        scaler=torch.amp.GradScaler() if precision == "fp16" else None,
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_no_launch_waits_for_a_number(precision: str) -> None:
    with Device() as device:
        model = device.place(model_of("bert", "sequence_classification"))
        stepper, unread = stepper_of(model, precision), None
        for _ in range(3):
            batch = batch_of([5, 9])
            with device.traced() as trace:
                sums = stepper.accumulate([(batch.to(CUDA), True)], 1)
                update = stepper.update
                if unread is not None:
                    with device.traced() as reading:
                        unread()
                unread = update(sums, 1e-3)
    assert stepper.decides_on_device
    assert trace.launches["_fused_adamw_"] == 2  # parameters with decay and without
    assert not trace.waits, trace.waits
    assert reading.launches["_foreach_lerp_"] == 1


def test_other_optimizers_wait_once() -> None:
    with Device() as device:
        model = device.place(model_of("bert", "sequence_classification"))
        stepper = stepper_of(model, optimizer="rmsprop")
        batch = batch_of([5, 9]).to(CUDA)
        with device.traced() as trace:
            stepper.step([(batch, True)], 1, 1e-3)
    assert not stepper.decides_on_device
    assert sum(trace.waits.values()) == 1, trace.waits


def test_what_is_copied_for_a_checkpoint_does_not_wait() -> None:
    from trainer.checkpoint.tensors import host_copies

    with Device() as device, device.traced() as trace:
        copies, wait = host_copies({"w": torch.empty(3, device=CUDA)})
    assert copies["w"].device.type == "cpu" and callable(wait)
    assert not trace.waits, trace.waits
