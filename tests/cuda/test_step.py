"""An optimizer step on a GPU is launched without waiting, and its facts are read a step later."""

import pytest
import torch

from recipes.sequence_classification import SequenceClassification
from tests.cuda.device import CUDA, Device
from tests.cuda.models import batch_of, model_of
from trainer.devices.ranks import Ranks
from trainer.models.pretrained import PretrainedModel
from trainer.settings import TrainSettings
from trainer.training.moving_average import ExponentialMovingAverage
from trainer.training.optim import build_optimizer
from trainer.training.step import Stepper

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


@pytest.mark.parametrize("recompute", [False, True])
def test_offloaded_activations_go_and_come_without_waiting(
    recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels are those of a step without offload, apart from the copies from pinned memory."""
    monkeypatch.setattr("trainer.models.offloading.SMALLEST", 1)
    found = []
    for offload in (False, True):
        with Device() as device:
            model = device.place(model_of("llama", "sequence_classification", num_hidden_layers=3))
            if recompute:
                model.gradient_checkpointing_enable()
            if offload:
                model.activation_offload_enable()
            stepper, batch = stepper_of(model), batch_of([5, 9]).to(CUDA)
            with device.traced() as trace:
                stepper.accumulate([(batch, True)], 1)
        assert not trace.waits, trace.waits
        found.append(trace)
    plain, moved = (dict(trace.launches) for trace in found)
    copies = {name for name in moved if moved[name] != plain.get(name)}
    assert copies <= {"copy_", "_to_copy"}, copies
    back = {place for place in found[1].copies if "offloading" in place}
    assert back and found[1].copies.total() > found[0].copies.total()
