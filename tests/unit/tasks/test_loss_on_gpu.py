"""The GPU's next-token loss, run on a CPU, equals the CPU's in sums, gradients and predictions."""

import os
import sys
from unittest import mock

import pytest
import torch

import trainer.models
from trainer.models.blocks import cross_entropy
from trainer.models.packing import Layout
from trainer.tasks import loss_on_gpu as module
from trainer.tasks.loss_on_gpu import loss_on_gpu, supervised_rows
from trainer.tasks.losses import IGNORED, _on_cpu

T, D, V = 37, 8, 53


def problem(dtype=torch.float64, labelled=0.5):
    torch.manual_seed(0)
    hidden, weight = torch.randn(T, D, dtype=dtype), torch.randn(V, D, dtype=dtype)
    targets = torch.randint(V, (T,))
    targets[torch.rand(T) > labelled] = IGNORED
    return hidden, weight, targets


@pytest.mark.parametrize(("smoothing", "cap"), [(0.0, None), (0.1, None), (0.1, 2.0)])
@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True), (False, False)])
def test_it_is_the_loss_of_the_cpu(monkeypatch, smoothing, cap, selected, wanted):
    monkeypatch.setattr(module, "ROWS", 10)
    monkeypatch.setattr(module, "CHUNK", 10 * V)  # several chunks, the last a short one
    hidden, weight, targets = problem()
    rows = (targets != IGNORED).nonzero().squeeze(1) if selected else None
    found = loss_on_gpu(hidden, weight, targets, smoothing, wanted, rows, cap)
    expected = _on_cpu(hidden, weight, targets, smoothing, wanted, cap)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rows", [None, torch.empty(0, dtype=torch.int64)])
def test_without_labels_there_is_no_loss_and_no_gradient(rows):
    hidden, weight, targets = problem(labelled=0.0)
    losses, right, *gradients = loss_on_gpu(hidden, weight, targets, 0.0, (True, True), rows)
    assert len(losses) == T and not losses.any() and not right.any()
    assert not any(gradient.any() for gradient in gradients)


def test_rows_are_chosen_on_the_host():
    layout = Layout(torch.tensor([3, 4]), torch.device("cpu"))
    labels = torch.tensor([5, 6, IGNORED, 7, IGNORED, IGNORED, 8])
    assert supervised_rows(layout, labels).tolist() == [0, 5]  # 7 is the first of its sequence
    long = Layout(torch.tensor([30, 31]), torch.device("cpu"))
    assert supervised_rows(long, torch.ones(61, dtype=torch.int64)) is None


def test_half_precision_sums_gradients_of_weights_in_fp32(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 4)
    monkeypatch.setattr(module, "CHUNK", 1)
    hidden, weight, targets = problem(torch.bfloat16, labelled=1.0)
    found = loss_on_gpu(hidden, weight.float(), targets, 0.0, (True, True), None)
    assert [x.dtype for x in found] == [torch.float32, torch.bool, torch.bfloat16, torch.float32]
    exact = _on_cpu(hidden.double(), weight.double(), targets, 0.0, (True, True))
    for ours, theirs in ((found[0], exact[0]), (found[3], exact[3])):
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


@pytest.fixture
def interpreted(monkeypatch):
    """The kernel as Triton's interpreter runs it."""
    with mock.patch.dict(os.environ, TRITON_INTERPRET="1"):  # read when Triton is imported
        pytest.importorskip("triton.language")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(cross_entropy, "BLOCK", 16)
    _forget_kernel()
    yield
    _forget_kernel()


def _forget_kernel():
    sys.modules.pop("trainer.models.blocks.cross_entropy_kernel", None)
    vars(trainer.models).pop("cross_entropy_kernel", None)


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_kernel_gives_what_torch_gives(interpreted, dtype):
    limit = 1e-5 if dtype == torch.float32 else 1e-3
    assert cross_entropy.worst_error(torch.device("cpu"), dtype) < limit


def test_of_equal_scores_the_first_is_the_prediction(interpreted):
    logits = torch.tensor([[1.0, 3, 3, 0], [3, 1, 3, 0], [0, 0, 0, 0]])
    losses, right = torch.empty(3), torch.empty(3, dtype=torch.uint8)
    cross_entropy._kernel(logits, losses, right, torch.tensor([1, 2, 0]), 0.0, False)
    assert right.tolist() == [1, 0, 1]


def test_a_loss_of_what_is_not_finite_is_not_finite(interpreted):
    logits = torch.zeros(2, 20)
    logits[0, 17], logits[1, 3] = torch.nan, torch.inf
    losses, right = torch.empty(2), torch.empty(2, dtype=torch.uint8)
    cross_entropy._kernel(logits, losses, right, torch.tensor([1, 2]), 0.0, True)
    assert not losses.isfinite().any()


def test_a_target_that_is_no_word_reads_no_foreign_memory(interpreted):
    """The loss is NaN, which ends the run; without the kernel, torch's functions raise."""
    targets = torch.tensor([20, -1, 3])
    losses, right = torch.empty(3), torch.empty(3, dtype=torch.uint8)
    around = torch.full((5, 20), 7.0)  # a kernel would read beyond the logits here
    cross_entropy._kernel(around[1:4].zero_(), losses, right, targets, 0.0, False)
    assert losses.isnan().tolist() == [True, True, False]
    for target in targets[:2]:
        with pytest.raises((RuntimeError, IndexError)):
            cross_entropy.plain_cross_entropy_(torch.zeros(1, 20), target.view(1), 0.0, False)
