"""The pretended device itself: what is fake, what is real, and what is counted."""

from pathlib import Path

import pytest
import torch

from tests.cuda import conftest, pretended
from tests.cuda.device import CUDA, Device
from tests.cuda.models import batch_of, model_of


def test_tensors_on_the_device_are_fake_and_those_on_the_host_are_real() -> None:
    with Device() as device:
        assert torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
        host = torch.arange(4)
        there = host.to(CUDA, non_blocking=True)
        assert host.sum().item() == 6
        assert (there + 1).device == CUDA and device.trace.launches["add"] == 1
        assert device.trace.copies.total() == 1 and not device.trace.waits
    assert not torch.cuda.is_available()


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: bool(x.any()),
        lambda x: x[torch.tensor([0, 1])],
        lambda x: x.new_tensor([1.0]),
        lambda x: torch.zeros(4).copy_(x),
        lambda x: x.index_put_((x > 0,), x[:2]),
        lambda x: torch.zeros(20_000).to(CUDA, non_blocking=True),
    ],
)
def test_what_waits_for_the_device_is_counted(wait) -> None:
    with Device() as device:
        x = torch.ones(4, device=CUDA)
        assert not device.trace.waits
        wait(x)
        assert device.trace.waits.total() == 1, device.trace.waits


def test_events_are_counted_apart_and_pinned_memory_is_waited_for_by_nothing() -> None:
    with Device() as device:
        torch.zeros(20_000).pin_memory().to(CUDA, non_blocking=True)
        torch.cuda.current_stream().record_event().synchronize()
        assert not device.trace.waits and device.trace.events.total() == 1


def test_sums_without_an_order_are_refused_where_cuda_refuses_them() -> None:
    try:
        torch.use_deterministic_algorithms(True)
        with Device():
            torch.ones(3, dtype=torch.int64, device=CUDA).cumsum(0)
            with pytest.raises(RuntimeError, match="deterministic"):
                torch.ones(3, device=CUDA).cumsum(0)
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_model_runs_forward_and_backward_by_cudas_own_rules() -> None:
    with Device() as device:
        model = device.place(model_of("bert", "sequence_classification"))
        batch = batch_of([5, 9, 3]).to(CUDA)
        with device.traced() as trace, torch.autocast("cuda", torch.bfloat16):
            model(**batch.inputs()).logits.sum().backward()
    assert all(p.grad is not None and p.grad.device == CUDA for p in model.parameters())
    assert trace.launches["addmm"] and trace.num_launches > 50


def test_without_a_compiler_the_tests_are_skipped_but_not_where_they_are_required(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    monkeypatch.setattr(pretended.shutil, "which", lambda name: None)
    monkeypatch.setattr(conftest, "_cache", lambda config: tmp_path)
    for required, outcome in (("", "skipped"), ("1", "failed")):
        monkeypatch.setenv("CUDA_TESTS_REQUIRED", required)
        (reports,) = conftest._outcomes([request.node]).values()
        assert [report.outcome for report in reports] == [outcome]
        assert "needs a C++ compiler" in str(reports[0].longrepr)
