"""The Triton attention, interpreted, has the plain path's outputs, gradients and masks."""

import os
import subprocess
import sys
from unittest import mock

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import trainer.models
from trainer.models.attention import flash_attention as module
from trainer.models.attention.flash_attention import flash_attention
from trainer.models.attention.flash_trial import plain, worst_error
from trainer.models.attention.self_attention import Attention
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.dropout_hash import head_keys
from trainer.models.packing import Layout

with mock.patch.dict(os.environ, TRITON_INTERPRET="1"):  # read when Triton is imported
    pytest.importorskip("triton.language")
CPU = torch.device("cpu")
# rows after a sequence's end, which are not written, see no key
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")


def _forget_kernels():
    sys.modules.pop("trainer.models.attention.flash_kernels", None)
    vars(trainer.models).pop("flash_kernels", None)


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """The kernels as Triton's interpreter runs them, in small blocks, so that there are several."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    _forget_kernels()
    small = module.Tiles(16, 8, 4, 1)
    monkeypatch.setattr(module, "tiles", lambda channels, dtype: (small, small))
    yield
    _forget_kernels()


def tensors(lengths, heads, key_heads, channels, dtype=torch.float32):
    torch.manual_seed(0)
    T = sum(lengths)
    q, k, v = (torch.randn(T, n, channels, dtype=dtype) for n in (heads, key_heads, key_heads))
    keys = torch.randint(-(1 << 31), 1 << 31, (T,), dtype=torch.int32)
    return [x.requires_grad_() for x in (q, k, v)], keys, Layout(torch.tensor(lengths), CPU)


def dropout_of(p, site=7):
    dropout = Dropout(p)
    dropout.site = site
    return dropout


CASES = {
    "bidirectional": ([37, 1, 18], 2, 2, 16, 0.25, (None, None)),
    "a window": ([41, 9], 1, 1, 16, 0.1, (5, 5)),
    "a window of itself": ([20], 1, 1, 16, 0.5, (0, 0)),
    "causal, grouped": ([35, 2, 17], 4, 2, 16, 0.3, (None, 0)),
    "causal with a window, grouped": ([50], 2, 1, 24, 0.3, (9, 0)),
    "without dropout": ([33, 6], 2, 1, 16, 0.0, (None, 0)),
    "channels that are no power of 2": ([19, 16], 1, 1, 40, 0.25, (None, None)),
}


@pytest.mark.parametrize("softcap", [0.5, 50.0])
def test_scores_are_scaled_and_capped_as_in_plain_products(softcap):
    """A small cap changes every score, a large one hardly any; with a window and dropout."""
    inputs, keys, layout = tensors([35, 2, 17], 4, 2, 16)
    options = {"scale": 0.7, "softcap": softcap, "sides": (9, 0)}
    dropout = dropout_of(0.3)
    found = flash_attention(*inputs, layout, dropout=dropout, keys=keys, **options)
    wanted = plain(*inputs, layout, dropout, keys, **options)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=5e-6)
    upstream = torch.randn_like(wanted)
    gradients = [torch.autograd.grad(out, inputs, upstream) for out in (found, wanted)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_outputs_and_gradients_are_those_of_plain_products(case):
    lengths, heads, key_heads, channels, p, sides = case
    inputs, keys, layout = tensors(lengths, heads, key_heads, channels)
    dropout = dropout_of(p)
    found = flash_attention(*inputs, layout, dropout=dropout, keys=keys, sides=sides)
    wanted = plain(*inputs, layout, dropout, keys, sides)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-6)
    upstream = torch.randn_like(wanted)
    gradients = [torch.autograd.grad(out, inputs, upstream) for out in (found, wanted)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_masks_are_those_of_the_plain_path_bit_for_bit():
    """With equal scores and one-hot values, the context equals the mask."""
    length, heads = 64, 2
    inputs, keys, layout = tensors([length, 23], heads, heads, length)
    query = torch.zeros_like(inputs[0])
    value = torch.zeros_like(query)
    place = torch.cat([torch.arange(length), torch.arange(23)])
    value[torch.arange(len(place)), :, place] = 1.0
    dropout = dropout_of(0.5, site=3)
    found = flash_attention(query, query, value, layout, dropout=dropout, keys=keys) > 0
    grid = head_keys(layout.to_grid(keys), heads)
    mask = dropout.mask(torch.empty(2, heads, length, length), grid).bool()
    mask[1, :, :, 23:] = False
    assert torch.equal(found, layout.from_grid(mask.transpose(1, 2)))
    assert 0.4 < float(mask[0].float().mean()) < 0.6


def test_inputs_may_be_slices_of_one_projection():
    (q, k, v), keys, layout = tensors([21, 12], 2, 2, 16)
    joined = torch.stack([q, k, v], 1).detach().flatten(2).flatten(1).requires_grad_()
    parts = [x.unflatten(1, (2, 16)) for x in joined.chunk(3, -1)]
    assert not parts[0].is_contiguous()
    dropout = dropout_of(0.2)
    found = flash_attention(*parts, layout, dropout=dropout, keys=keys)
    torch.testing.assert_close(found, plain(q, k, v, layout, dropout, keys), rtol=1e-5, atol=2e-6)


def test_half_precision_and_its_gradients(monkeypatch):
    monkeypatch.setattr("trainer.models.attention.flash_trial.LENGTHS", (21, 2, 18))
    assert worst_error(flash_attention, CPU, torch.float16, 16) < 0.005


def test_the_operators_are_registered_as_torch_wants():
    inputs, keys, layout = tensors([3, 2], 2, 1, 16)
    heads = dropout_of(0.1).head_hashes(2, CPU)
    arguments = (keys, heads, layout.cumulative_lengths, 3, 6554, 1.1, -1, 0, 0.25, 2.0)
    torch.library.opcheck(module._forward, (*inputs, *arguments))


def test_the_layer_takes_the_kernel_and_gives_what_its_plain_path_gives(monkeypatch):
    torch.manual_seed(0)
    layer = Attention(32, 2, dropout=0.3).train()
    keys = torch.randint(-(1 << 31), 1 << 31, (25,), dtype=torch.int32)
    layout = Layout(torch.tensor([11, 14]), CPU)
    x = torch.randn(25, 32)
    plain_context, _ = layer(x, layout, keys)
    calls = []
    monkeypatch.setattr(
        "trainer.models.attention.self_attention.fits_flash_kernel",
        lambda *facts: calls.append(facts) or True,
    )
    torch.testing.assert_close(layer(x, layout, keys)[0], plain_context, rtol=1e-5, atol=1e-6)
    assert calls == [(CPU, torch.float32, 16)]


def test_without_keys_the_masks_come_from_the_generator():
    inputs, _, layout = tensors([30], 1, 1, 16)
    contexts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        contexts.append(flash_attention(*inputs, layout, dropout=dropout_of(0.5), keys=None))
    assert torch.equal(contexts[0], contexts[1])
    assert not torch.equal(contexts[0], contexts[2])


def test_a_kernel_that_fails_is_left_out_with_one_warning(monkeypatch):
    module._agrees.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("trainer.models.attention.flash_trial.worst_error", lambda *_: 1 / 0)
    arguments = torch.device("cuda"), torch.bfloat16, 64
    with pytest.warns(UserWarning, match="ZeroDivisionError.*TEMPERING_TRITON=0"):
        assert not module.fits_flash_kernel(*arguments)
    assert not module.fits_flash_kernel(*arguments)  # a second warning would be an error
    module._agrees.cache_clear()
    monkeypatch.setattr("trainer.models.attention.flash_trial.worst_error", lambda *_: 0.4)
    with pytest.warns(UserWarning, match="relative error 0.4"):
        assert not module.fits_flash_kernel(*arguments)
    module._agrees.cache_clear()
    monkeypatch.setattr("trainer.models.attention.flash_trial.worst_error", lambda *_: 0.001)
    assert module.fits_flash_kernel(*arguments)
    assert not module.fits_flash_kernel(arguments[0], torch.float64, 64)
    assert not module.fits_flash_kernel(arguments[0], torch.float32, 256)
    monkeypatch.setenv("TEMPERING_TRITON", "0")
    assert not module.fits_flash_kernel(*arguments)
    module._agrees.cache_clear()


def test_a_trial_in_a_checkpointed_layer_leaves_the_layer_alone(monkeypatch):
    """The layer does not save its tensors, and they are not recomputed."""
    monkeypatch.setattr("trainer.models.attention.flash_trial.LENGTHS", (5, 2))
    errors = []

    def layer(x):
        if not errors:
            errors.append(worst_error(flash_attention, CPU, torch.float32, 16))
        return x.sin()

    x = torch.zeros(3, requires_grad=True)
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert x.grad.tolist() == [1, 1, 1] and len(errors) == 1 and errors[0] < 1e-4


def test_a_compiled_model_tries_the_kernels_too(monkeypatch):
    """Dynamo calls the trial while tracing, when tensors may be fake."""
    monkeypatch.setattr("trainer.models.attention.flash_trial.LENGTHS", (5, 2))
    monkeypatch.setattr(module, "triton_runs_on", lambda device: True)
    errors = []
    monkeypatch.setattr(
        "trainer.models.attention.flash_trial.worst_error",
        lambda *facts: errors.append(worst_error(*facts)) or 1.0,
    )
    module._agrees.cache_clear()

    @torch.compile(backend="eager", fullgraph=True)
    def model(x):
        return x + 1 if module.fits_flash_kernel(x.device, x.dtype, 16) else x

    with pytest.warns(UserWarning, match="attention.*relative error 1 "):
        assert model(torch.zeros(2)).tolist() == [0, 0]
    module._agrees.cache_clear()
    assert len(errors) == 1 and errors[0] < 1e-4


def test_a_compiled_layer_that_drops_is_one_graph(monkeypatch):
    monkeypatch.setattr(
        "trainer.models.attention.self_attention.fits_flash_kernel", lambda *facts: True
    )
    graphs = []

    def compiled(graph, _):
        graphs.append(graph)
        return graph.forward

    layer = Attention(32, 2, dropout=0.3).train()
    model = torch.compile(layer, backend=compiled, dynamic=True, fullgraph=True)
    for lengths in ([3, 4], [2, 5, 2], [6, 1]):
        keys = torch.arange(sum(lengths), dtype=torch.int32)
        layout = Layout(torch.tensor(lengths), CPU)
        layout.precompute()
        x = torch.randn(sum(lengths), 32)
        torch.testing.assert_close(model(x, layout, keys)[0], layer(x, layout, keys)[0])
    assert len(graphs) == 1


COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from trainer.models.blocks import cross_entropy_kernel
from trainer.models.attention import flash_kernels
from trainer.models.attention.flash_attention import tiles

POINTERS = {"LSE": "*fp32", "DELTA": "*fp32", "KEYS": "*i32", "HEADS": "*i32", "STARTS": "*i32"}
FLOATS = {"scale": "fp32", "plain_scale": "fp32", "keep_scale": "fp32"}

for name in ("forward", "backward_of_queries", "backward_of_keys"):
    kernel = getattr(flash_kernels, name)
    alike = [p.name for p in kernel.params if p.do_not_specialize]
    assert alike == list(flash_kernels.VARYING)  # else batches of other lengths compile once more
    for capability, channels in ((80, 64), (90, 128)):
        tile = tiles(channels, torch.bfloat16)[name == "backward_of_keys"]
        constants = dict(GROUP=2, C=channels, BLOCK_C=channels, ROWS=tile.rows, PAIRS=tile.pairs,
                         DROPS=True, WINDOW=True, PRECISION="tf32")
        types = {}
        for argument in kernel.arg_names:
            default = "*bf16" if argument.isupper() else "i32"
            types[argument] = {**POINTERS, **FLOATS}.get(argument, default)
        types.update(dict.fromkeys(constants, "constexpr"))
        places = {(kernel.arg_names.index(key),): value for key, value in constants.items()}
        source = ASTSource(kernel, types, constexprs=places)
        options = {"num_warps": tile.warps, "num_stages": tile.stages}
        built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        assert built.asm["cubin"] and built.metadata.shared < 160 << 10

kernel = cross_entropy_kernel.cross_entropy
types = {"LOGITS": "*bf16", "TARGETS": "*i64", "LOSSES": "*fp32", "RIGHT": "*u8",
         "smoothing": "fp32", "row_stride": "i32", "vocab_size": "i32"}
constants = dict(IGNORED=-100, BLOCK=4096, DIFFERENTIATE=True)
types.update(dict.fromkeys(constants, "constexpr"))
places = {(kernel.arg_names.index(key),): value for key, value in constants.items()}
source = ASTSource(kernel, types, constexprs=places)
built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
assert built.asm["cubin"]
"""


@pytest.mark.slow
def test_the_kernels_compile_for_gpus_without_one(tmp_path):
    """Compiled to machine code for capabilities 8.0 and 9.0, with Triton's assembler."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
