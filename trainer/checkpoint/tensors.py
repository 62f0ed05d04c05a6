"""Tensors as the bytes of a safetensors file, with one tensor in memory at a time."""

import json
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from trainer.errors import InputError, NumericsError

# safetensors.torch.save_file is not used: its I/O errors have no errno, its files are only
# readable by their owner, and a test could not interrupt it half way.
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.complex64: "C64",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def pieces(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> tuple[int, Iterator[bytes | memoryview]]:
    """The size of a safetensors file, and its bytes in pieces.

    Tensors are ordered as by the safetensors library: those with the widest dtype first. Raises
    InputError for a dtype that such a file cannot have.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        kind = _name_of(tensor.dtype, name)
        entries[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    head = len(header).to_bytes(8, "little") + header
    return len(head) + end, _stream(head, [tensors[name] for name in names])


def _name_of(dtype: torch.dtype, tensor: str) -> str:
    if dtype not in DTYPES:
        accepted = ", ".join(str(each).removeprefix("torch.") for each in DTYPES)
        raise InputError(f"{tensor}: found {dtype}, which cannot be saved; accepted: {accepted}")
    return DTYPES[dtype]


def host_copies(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Callable[[], None]]:
    """Copy tensors to host memory; also returns a function that waits for the copies.

    Later steps do not change the copies. GPU tensors are copied asynchronously to page-locked
    memory, so that the caller need not wait.
    """
    copies = {name: _host_copy(tensor.detach()) for name, tensor in tensors.items()}
    on_gpu = [tensor.device for tensor in tensors.values() if tensor.device.type == "cuda"]
    made = [torch.cuda.current_stream(device).record_event() for device in set(on_gpu)]

    def wait() -> None:
        for event in made:
            event.synchronize()

    return copies, wait


def _host_copy(tensor: Tensor) -> Tensor:
    if tensor.device.type != "cuda":
        return tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def require_finite(file: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise NumericsError, naming the file and the tensor, if a value is NaN or infinite."""
    for name, tensor in tensors.items():
        if bad := count_not_finite(tensor.detach()):
            raise NumericsError(f"{file}: {bad} values of {name} are not finite; not saved")


EXPONENTS: dict[torch.dtype, np.integer] = {
    torch.bfloat16: np.int16(0x7F80),
    torch.float16: np.int16(0x7C00),
    torch.float32: np.int32(0x7F80_0000),
    torch.float64: np.int64(0x7FF0_0000_0000_0000),
}
"""Dtype -> the bits of the exponent, all of which are set only in NaN and infinities."""
CHUNK = 1 << 18


def count_not_finite(tensor: Tensor) -> int:
    """The number of values that are NaN or infinite."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return 0
    if tensor.device.type != "cpu" or tensor.dtype not in EXPONENTS:
        wide = tensor if tensor.element_size() > 1 else tensor.float()
        return int((~wide.isfinite()).sum())
    exponent = EXPONENTS[tensor.dtype]
    values = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().view(exponent.dtype)
    # numpy uses one core and releases the GIL, so that training continues meanwhile
    masked = np.empty(min(CHUNK, len(values)), exponent.dtype)
    found = 0
    for start in range(0, len(values), CHUNK):
        chunk = values[start : start + CHUNK]
        part = np.bitwise_and(chunk, exponent, out=masked[: len(chunk)])
        if part.max() == exponent:
            found += int((part == exponent).sum())
    return found


def _stream(head: bytes, tensors: list[Tensor]) -> Iterator[bytes | memoryview]:
    yield head
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data
