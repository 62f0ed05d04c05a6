"""Device: fake CUDA tensors beside real ones on the CPU, and the work that a GPU would have had.

For tests in the process of `tests/cuda/pretended.py`, whose docstring shows how to write one.
"""

import pkgutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from tests.cuda.kernels import attention_of, normalized

CUDA = torch.device("cuda", 0)
ROOT = Path(__file__).parents[2]
OURS = tuple(f"{ROOT / name}/" for name in ("trainer", "recipes"))
MEMORY = 80 << 30
"""The bytes of memory that the device reports."""
STAGED = 64 << 10
"""The largest number of bytes that CUDA copies from unpinned memory without waiting."""
VIEWS = frozenset(
    [
        "device",
        "view",
        "_unsafe_view",
        "_reshape_alias",
        "alias",
        "as_strided",
        "chunk",
        "detach",
        "diagonal",
        "expand",
        "lift_fresh",
        "narrow",
        "permute",
        "reshape",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "t",
        "transpose",
        "unbind",
        "unfold",
        "unflatten",
        "unsqueeze",
        "view_as_real",
        "view_as_complex",
        "is_same_size",
        "is_pinned",
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
    ]
)
"""Operations that start no kernel: views, and memory without content."""


@dataclass
class Trace:
    """The operations of a device while it was traced."""

    launches: Counter[str] = field(default_factory=Counter)
    """Kernels by operation; an operation that runs several kernels counts once"""
    copies: Counter[str] = field(default_factory=Counter)
    """Copies of host memory to the device, by operation and place"""
    waits: Counter[str] = field(default_factory=Counter)
    """Times that the host has to wait for the device, by operation and place"""
    events: Counter[str] = field(default_factory=Counter)
    """Waits for a recorded event (only for earlier work of the device), by place"""
    bytes: Counter[str] = field(default_factory=Counter)
    """Bytes that kernels read and write, by operation"""
    largest: int = 0
    """Elements of the largest tensor that a kernel wrote"""

    @property
    def num_launches(self) -> int:
        return self.launches.total()

    @property
    def num_bytes(self) -> int:
        return self.bytes.total()


class Device(TorchDispatchMode):
    """Fake `cuda` tensors, and a torch.cuda that answers like a GPU of this capability.

    Tensors on the CPU stay real. Reading from the device gives values that were copied there, or
    else true, 1.0, zeros, or one row less than the maximum; each reading counts as a wait.
    """

    def __init__(
        self, capability: tuple[int, int] = (9, 0), num_devices: int = 1, triton: bool = True
    ) -> None:
        """`triton`: whether Triton is installed beside torch. A compiled leaf is one launch."""
        super().__init__()
        self.triton = triton
        self._in_leaf = False
        self.capability = capability
        self.num_devices = num_devices
        self.trace = Trace()
        """The trace of everything; `traced` gives that of a part"""
        self.fake = _Fake(allow_non_fake_inputs=True)
        self._pinned: MutableMapping[Tensor, bool] = WeakTensorKeyDictionary()
        self._sent: MutableMapping[Tensor, tuple[Tensor, int]] = WeakTensorKeyDictionary()
        """Values copied from the host, which can be read back as long as nothing overwrites them"""

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        for target, replacement in _answers(self).items():
            owner, name = target.rsplit(".", 1)
            holder = pkgutil.resolve_name(owner)
            self._stack.enter_context(mock.patch.object(holder, name, replacement, create=True))
        replacements = {"attention.triton_device.installed": lambda: self.triton}
        replacements["blocks.leaves.Leaf.run_compiled"] = lambda leaf, *x: self._leaf(leaf, x)
        for name, replacement in replacements.items():
            self._stack.enter_context(mock.patch(f"trainer.models.{name}", replacement))
        self._stack.enter_context(self.fake)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.close()

    @contextmanager
    def traced(self) -> Iterator[Trace]:
        """A context with a separate trace."""
        before, self.trace = self.trace, Trace()
        found = self.trace
        try:
            yield found
        finally:
            self.trace = before
            for name in ("launches", "copies", "waits", "events", "bytes"):
                getattr(before, name).update(getattr(found, name))
            before.largest = max(before.largest, found.largest)

    def place(self, model: nn.Module) -> nn.Module:
        """The model with fake parameters and buffers on the device.

        It may be on any device, or meta. Shared parameters stay shared. This is cheap even for
        large models.
        """
        known: dict[int, nn.Parameter] = {}
        for module in model.modules():
            for name, old in module._parameters.items():
                if old is not None:
                    new = torch.empty(old.shape, dtype=old.dtype, device=CUDA)
                    fresh = nn.Parameter(new, requires_grad=old.requires_grad)
                    module._parameters[name] = known.setdefault(id(old), fresh)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    new = torch.empty(buffer.shape, dtype=buffer.dtype, device=CUDA)
                    module._buffers[name] = new
        return model

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device
        if self._in_leaf:
            return func(*args, **kwargs)
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if _on_host(inputs, kwargs.get("device")):
            pinned = kwargs.pop("pin_memory", False)
            with unset_fake_temporarily():
                found = func(*args, **kwargs)
            return self.pinned(found) if pinned else found
        name = func.name().split("::")[1].split(".")[0]
        if name in ("_to_copy", "copy_", "_copy_from"):
            return self._copied(func, name, args, kwargs, inputs)
        _refuse_if_deterministic(name, args, inputs)
        if name == "_local_scalar_dense":
            self.trace.waits[f"item at {_place()}"] += 1
            return _one(inputs[0].dtype)
        try:
            found = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            self.trace.waits[f"{name} at {_place()}"] += 1
            found = _plausible(name, args, inputs)
        if name.startswith("index_put") and _chooses_rows(args):
            self.trace.waits[f"{name} by a mask at {_place()}"] += 1
        self._count(name, inputs, found)
        return found

    def pinned(self, tensor: Tensor) -> Tensor:
        """The same tensor on the host, from now on in memory from which copies need not wait."""
        self._pinned[tensor] = True
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether a tensor is in such memory."""
        return tensor in self._pinned

    def _leaf(self, leaf: Any, inputs: tuple[Any, ...]) -> Any:
        """The outputs of a compiled leaf, counted as one kernel that reads inputs and writes
        outputs."""
        self._in_leaf = True
        try:
            found = leaf.function(*inputs)
        finally:
            self._in_leaf = False
        self._count(leaf.function.__name__, [x for x in inputs if isinstance(x, Tensor)], found)
        return found

    def _copied(
        self, func: Any, name: str, args: Any, kwargs: dict[str, Any], inputs: list[Tensor]
    ) -> Any:
        """A copy between host and device, either way, or on the device."""
        blocking = not kwargs.get("non_blocking", len(args) > 2 and args[2])
        source = inputs[-1]
        to_host = inputs[0] if name != "_to_copy" else None
        host = to_host is not None and not isinstance(to_host, FakeTensor)
        if host or (
            name == "_to_copy" and torch.device(kwargs.get("device") or CUDA).type == "cpu"
        ):
            if blocking or to_host is None or not self.is_pinned(to_host):
                self.trace.waits[f"copy to the host at {_place()}"] += 1
            if to_host is not None:
                with unset_fake_temporarily():
                    return to_host.zero_()
            known, version = self._sent.get(source, (None, -1))
            with unset_fake_temporarily():
                if known is not None and version == source._version:
                    return known.to(kwargs.get("dtype") or known.dtype, copy=True)
                return torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype)
        found = func(*args, **kwargs)
        if name == "_to_copy" and not isinstance(source, FakeTensor):
            with unset_fake_temporarily():
                self._sent[found] = source.to(found.dtype, copy=True), found._version
        if _kind(source) == "cuda":
            self._count(name, inputs, found)
        else:
            self.trace.copies[f"{name} at {_place()}"] += 1
            staged = source.nbytes <= STAGED or self.is_pinned(source)
            if blocking or not staged:
                self.trace.waits[f"blocking copy to the device at {_place()}"] += 1
        return found

    def _count(self, name: str, inputs: list[Tensor], found: Any) -> None:
        if name in VIEWS:
            return
        outputs = [x for x in tree_leaves(found) if isinstance(x, Tensor)]
        if not any(_kind(x) == "cuda" for x in (*outputs, *inputs)):
            return
        for x in inputs:
            if _kind(x) == "cpu" and x.dim() > 0:  # operations move their indices themselves
                self.trace.copies[f"{name} at {_place()}"] += 1
                self.trace.waits[f"blocking copy for {name} at {_place()}"] += 1
        self.trace.launches[name] += 1
        self.trace.bytes[name] += _moved(name, inputs, outputs)
        self.trace.largest = max([self.trace.largest, *(x.numel() for x in outputs)])


class _Fake(FakeTensorMode):
    """A generator that never starts CUDA, although torch.cuda reports it as available."""

    avoid_device_init = True  # type: ignore[assignment]


INEXACT_SUMS = ("cumsum", "cumprod", "histc", "kthvalue", "put_", "scatter_reduce", "bincount")
"""Operations that CUDA refuses under `torch.use_deterministic_algorithms`, on fractions."""


def _refuse_if_deterministic(name: str, args: Any, inputs: list[Tensor]) -> None:
    fractions = any(x.is_floating_point() and _kind(x) == "cuda" for x in inputs)
    if name in INEXACT_SUMS and fractions and torch.are_deterministic_algorithms_enabled():
        raise RuntimeError(f"{name}_cuda does not have a deterministic implementation")


def _chooses_rows(args: Any) -> bool:
    """Whether index_put assigns several values by a mask, whose ones it must count."""
    masks = [x for x in args[1] if x is not None and x.dtype == torch.bool]
    return bool(masks) and args[2].numel() != 1


def _on_host(inputs: list[Tensor], device: Any) -> bool:
    """Whether an operation does not involve the device."""
    if device is not None and torch.device(device).type != "cpu":
        return False
    return not any(isinstance(x, FakeTensor) or x.device.type != "cpu" for x in inputs)


def _kind(x: Tensor) -> str:
    """The type of the device that a tensor reports."""
    return (x.fake_device if isinstance(x, FakeTensor) else x.device).type


READ_IN_PART = ("embedding", "index_select", "gather", "index")
WRITTEN_IN_PART = ("index_put_", "index_copy_", "scatter_", "index_add_", "scatter_add_")


def _moved(name: str, inputs: list[Tensor], outputs: list[Tensor]) -> int:
    """Bytes that an operation reads and writes."""
    if name in READ_IN_PART:  # as many bytes as it writes, in the same place
        parts = [*outputs, *outputs, *inputs[1:]]
    elif name in WRITTEN_IN_PART:
        parts = [*inputs[1:], *inputs[-1:]]
    else:
        parts = [*inputs, *outputs]
    return sum(x.numel() * x.element_size() for x in parts)


def _one(dtype: torch.dtype) -> bool | int | float:
    if dtype == torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else 0


def _plausible(name: str, args: Any, inputs: list[Tensor]) -> Any:
    """A possible result of an operation whose shape depends on values."""
    source = inputs[0]
    some = max(source.numel() - 1, 0)
    if name == "nonzero":
        return torch.empty(some, source.dim(), dtype=torch.int64, device=CUDA)
    if name == "index":
        masks = [x for x in args[1] if x is not None and x.dtype == torch.bool]
        if len(masks) == 1 and args[1][0] is masks[0]:
            rows = max(masks[0].numel() - 1, 0)
            shape = (rows, *source.shape[masks[0].dim() :])
            return torch.empty(shape, dtype=source.dtype, device=CUDA)
    if name == "masked_select":
        return torch.empty(some, dtype=source.dtype, device=CUDA)
    if name == "repeat_interleave":
        return torch.empty(some + 2, dtype=torch.int64, device=CUDA)
    if name in ("equal", "is_nonzero"):
        return True
    raise AssertionError(f"{name}: its shape depends on numbers, and tests/cuda knows no answer")


def _place() -> str:
    """The innermost line of this project on the stack, such as trainer/tasks/losses.py:120."""
    for frame, line in traceback.walk_stack(None):
        file = frame.f_code.co_filename
        if file.startswith(OURS):
            return f"{Path(file).relative_to(ROOT)}:{line}"
    return "outside of the project"


class _Stream:
    """A stream or an event, of which all work is done at once."""

    device = CUDA
    device_index = 0

    def __init__(self, owner: "Device") -> None:
        self.owner = owner

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None: ...

    def record(self, *_: Any) -> Self:
        return self

    def record_event(self, *_: Any) -> Self:
        return self

    def query(self) -> bool:
        return True

    def nothing(self, *_: Any, **__: Any) -> None: ...

    wait = wait_event = wait_stream = nothing

    def synchronize(self) -> None:
        self.owner.trace.events[_place()] += 1


def _memory_share(device: Any = None) -> float:
    if device is not None:
        torch.cuda._utils._get_device_index(device)  # refuses a device without an index
    return 1.0


def _answers(device: Device) -> dict[str, Any]:
    """The answers of torch's functions about the device, by their names."""
    properties = SimpleNamespace(
        name="pretended",
        total_memory=MEMORY,
        major=device.capability[0],
        minor=device.capability[1],
        multi_processor_count=132,
    )
    stream = _Stream(device)

    def const(value: Any) -> Callable[..., Any]:
        return lambda *_, **__: value

    answers = {
        "is_available": True,
        "is_initialized": True,
        "device_count": device.num_devices,
        "current_device": 0,
        "set_device": None,
        "get_device_capability": device.capability,
        "get_device_properties": properties,
        "get_device_name": properties.name,
        "is_bf16_supported": True,  # before Ampere in fp32, as torch reports too
        "mem_get_info": (MEMORY, MEMORY),
        "memory_allocated": 0,
        "memory_reserved": 0,
        "max_memory_allocated": 0,
        "max_memory_reserved": 0,
        "reset_peak_memory_stats": None,
        "memory_stats": {},
        "empty_cache": None,
        "synchronize": None,
        "manual_seed": None,
        "manual_seed_all": None,
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": None,
        "current_stream": stream,
        "default_stream": stream,
        "stream": stream,
        "Stream": stream,
        "Event": stream,
    }
    found = {f"torch.cuda.{name}": const(value) for name, value in answers.items()}
    found["torch.cuda.amp.common.amp_definitely_not_available"] = const(False)
    found["torch.amp.grad_scaler.amp_definitely_not_available"] = const(False)
    for name in ("empty_cache", "synchronize", "reset_peak_memory_stats", "set_device_index"):
        found[f"torch.accelerator.{name}"] = const(None)
    for name in ("allocated", "reserved"):
        found[f"torch.accelerator.memory_{name}"] = const(0)
        found[f"torch.accelerator.max_memory_{name}"] = const(0)
    found["torch.cuda.get_per_process_memory_fraction"] = _memory_share
    found["torch.accelerator.get_memory_info"] = const((MEMORY, MEMORY))
    found["torch.nn.functional.rms_norm"] = normalized
    found["torch.nn.functional.scaled_dot_product_attention"] = attention_of(device.capability)
    # otherwise fake tensors would be excluded from kernels over lists of tensors
    found["torch.utils._foreach_utils._foreach_supported_types"] = [
        Tensor,
        nn.Parameter,
        FakeTensor,
    ]
    found["torch.Tensor.pin_memory"] = lambda tensor, *_: device.pinned(tensor)
    found["torch.Tensor.is_pinned"] = lambda tensor, *_: device.is_pinned(tensor)
    # the fake version reads one number after another
    found["torch._subclasses.fake_tensor.FakeTensor.tolist"] = lambda x: x.cpu().tolist()
    return found
