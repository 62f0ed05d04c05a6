"""Activation offload: keeps the tensors that layers save for the backward pass in host memory.

The restored values have the same bits and strides, so results do not change. On CUDA host memory is
page-locked, and a second stream copies while the device computes. A layer's tensors are copied to
the host during the next layer's forward pass, and back during the next layer's backward pass.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

SMALLEST = 1 << 16
"""In bytes. Smaller tensors stay on the device: they free too little memory to be worth a copy."""


class ActivationOffload:
    """Moves the tensors that one body's layers save; wrap each layer's call in `layer`."""

    def __init__(self) -> None:
        self._last: _Group | None = None
        """The last layer's tensors, which stay on the device until the next layer has run"""

    @contextmanager
    def layer(self, layer: nn.Module, arguments: Sequence[object]) -> Iterator[None]:
        """A context for `layer(*arguments)`; the first argument is [T, D], the layer's input.

        It does not move parameters, their copies in another precision, or tensors that all layers
        share.
        """
        group = _Group(self._last)
        unmoved = _UnmovedTensors(layer, arguments[1:])

        def pack(tensor: Tensor) -> "Tensor | _HostCopy":
            return tensor if tensor in unmoved else group.add(tensor)

        with torch.autograd.graph.saved_tensors_hooks(pack, _restored):
            yield
        if self._last is not None:
            self._last.release()
        group.send()
        self._last = group


class _UnmovedTensors:
    """The set of a layer's saved tensors that stay on the device."""

    def __init__(self, layer: nn.Module, shared: Sequence[object]) -> None:
        self._layer = layer
        self._shared = {_storage(x) for each in shared for x in _tensors(each)}
        self._weights: set[int] | None = None
        self._shapes: set[tuple[int, ...]] = set()

    def __contains__(self, tensor: Tensor) -> bool:
        if not tensor.is_floating_point() or tensor.nbytes < SMALLEST or _overlaps(tensor):
            return True
        if self._weights is None:  # inside the layer's call, when sharded weights are gathered
            parameters = list(self._layer.parameters())
            self._weights = {_storage(p) for p in parameters}
            self._shapes = {_shape(p) for p in parameters}
        known = self._weights | self._shared
        return _storage(tensor) in known or _shape(tensor) in self._shapes


class _Group:
    """The tensors of one layer's call, which are moved together in both directions."""

    def __init__(self, before: "_Group | None") -> None:
        self._before = None if before is None else weakref.ref(before)
        self._copies: list[weakref.ref[_HostCopy]] = []
        self._known: dict[tuple[object, ...], _HostCopy] = {}
        self._sent: torch.cuda.Event | None = None
        self._fetched: torch.cuda.Event | None = None

    def add(self, tensor: Tensor) -> "_HostCopy":
        """Return a tensor's copy, which is moved with this group; equal tensors share a copy."""
        region = _storage(tensor), tensor.storage_offset(), tensor.shape, tensor.stride()
        key = (*region, tensor.dtype, tensor._version)
        if key not in self._known:
            copy = _HostCopy(tensor, self)
            self._known[key] = copy
            self._copies.append(weakref.ref(copy))
        return self._known[key]

    def send(self) -> None:
        """Start copying to the host, after all computations queued so far."""
        copies, self._known = list(self._known.values()), {}
        self._sent = _queued(copies, _HostCopy.send) or self._sent

    def release(self) -> None:
        """Free the device's tensors once their copies are complete; the host does not wait."""
        copies = [copy for each in self._copies if (copy := each()) is not None]
        if self._sent is not None and copies:
            torch.cuda.current_stream(copies[0].device).wait_event(self._sent)
        self._sent = None
        for copy in copies:
            copy.on_device = None

    def restore(self, device: torch.device) -> None:
        """Restore the tensors, and start to restore those of the previous layer."""
        self.fetch()
        if self._fetched is not None:
            torch.cuda.current_stream(device).wait_event(self._fetched)
            self._fetched = None
        before = None if self._before is None else self._before()
        if before is not None:
            before.fetch()

    def fetch(self) -> None:
        """Start copying the tensors that are not on the device."""
        copies = [copy for each in self._copies if (copy := each()) and copy.on_device is None]
        for copy in copies:
            copy.allocate()
        self._fetched = _queued(copies, _HostCopy.fetch) or self._fetched


class _HostCopy:
    """A tensor in host memory; only autograd's graph keeps it and its group alive."""

    def __init__(self, tensor: Tensor, group: _Group) -> None:
        self.group, self.device, self.dtype = group, tensor.device, tensor.dtype
        self.shape, self.stride = tensor.shape, tensor.stride()
        pinned = tensor.device.type == "cuda"
        dense = _span(tensor) == tensor.numel()  # if not, only the values are copied, not the gaps
        strides = self.stride if dense else torch.empty(self.shape, device="meta").stride()
        self.host = torch.empty_strided(self.shape, strides, dtype=self.dtype, pin_memory=pinned)
        self.on_device: Tensor | None = tensor.detach()
        """The tensor while it is on the device"""

    def allocate(self) -> None:
        """Allocate memory on the device, on the stream that computes."""
        self.on_device = torch.empty_strided(
            self.shape, self.stride, dtype=self.dtype, device=self.device
        )

    def send(self) -> None:
        """Start to copy from the device."""
        assert self.on_device is not None
        self.host.copy_(self.on_device, non_blocking=True)

    def fetch(self) -> None:
        """Start to copy to the allocated memory on the device."""
        assert self.on_device is not None
        self.on_device.copy_(self.host, non_blocking=True)


def _restored(packed: "Tensor | _HostCopy") -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    packed.group.restore(packed.device)
    assert packed.on_device is not None
    return packed.on_device


def _queued(
    copies: Sequence[_HostCopy], move: Callable[[_HostCopy], None]
) -> "torch.cuda.Event | None":
    """Start to move the copies, all of one device; returns an event recorded after them.

    Returns None if the device has no second stream, or if there are no copies.
    """
    if not copies:
        return None
    with _copying(copies[0].device) as stream:
        for copy in copies:
            move(copy)
        return None if stream is None else stream.record_event()


@contextmanager
def _copying(device: torch.device) -> Iterator["torch.cuda.Stream | None"]:
    """A context in which copies run during the device's computations, on a second stream.

    The copies begin after all computations queued so far. Yields the stream; on devices without
    streams, None.
    """
    if device.type != "cuda":
        yield None
        return
    stream = _COPY_STREAMS.get(device)
    if stream is None:
        stream = _COPY_STREAMS[device] = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield stream


_COPY_STREAMS: dict[torch.device, "torch.cuda.Stream"] = {}


def _tensors(value: object) -> Iterator[Tensor]:
    """The tensors in an argument of a layer: the argument itself, or entries of tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """The sorted shape, which is equal for a matrix and its transpose."""
    return tuple(sorted(tensor.shape))


def _span(tensor: Tensor) -> int:
    """The number of elements in memory from the first to the last one."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((size - 1) * stride for size, stride in pairs) if tensor.numel() else 0


def _overlaps(tensor: Tensor) -> bool:
    """Whether several elements share memory, as in an expanded tensor."""
    return _span(tensor) < tensor.numel()
