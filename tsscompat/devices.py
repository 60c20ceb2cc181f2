"""Where an index lives: the default device, FAISS's GPU numbers, virtual GPUs, memory.

A new or read index goes to `default_device()`: what `set_default_device` said, else the environment's TSSCOMPAT_DEVICE, else CUDA where
there is one, else the CPU. With TSSCOMPAT_VIRTUAL_GPUS=n, n devices backed by the CPU stand in for GPUs, so that code which places
indexes on GPUs runs where there is none.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from dataclasses import dataclass

import torch

from tsscompat.errors import FaissError, OutOfDeviceMemory, check

CPU = torch.device("cpu")
_default: torch.device | None = None


@dataclass(frozen=True)
class Placement:
    """A torch device, and the GPU number that FAISS's names know it by (-1: the CPU)."""

    device: torch.device
    gpu: int = -1


def virtual_gpus() -> int:
    """How many CPU-backed devices stand in for GPUs."""
    text = os.environ.get("TSSCOMPAT_VIRTUAL_GPUS", "0") or "0"
    check(text.isdigit(), "TSSCOMPAT_VIRTUAL_GPUS must be a count, got {!r}", text)
    return int(text)


def gpu_count() -> int:
    """How many GPUs an index can be placed on, virtual ones included."""
    return virtual_gpus() or (torch.cuda.device_count() if torch.cuda.is_available() else 0)


def gpu(number: int) -> Placement:
    """The placement that FAISS calls GPU `number`."""
    check(0 <= number < gpu_count(), "no GPU {}: there are {}", number, gpu_count())
    return Placement(CPU if virtual_gpus() else torch.device("cuda", number), number)


def place(where: torch.device | str | int | Placement) -> Placement:
    """A placement from a torch device, its name, or a GPU number."""
    if isinstance(where, Placement):
        return where
    if isinstance(where, int) and not isinstance(where, bool):
        return gpu(where)
    try:
        device = torch.device(where)
    except RuntimeError as e:
        raise FaissError(f"unknown device {where!r}: {e}") from None
    if device.type == "cuda":
        number = device.index if device.index is not None else (0 if virtual_gpus() else torch.cuda.current_device())
        return gpu(number)
    return Placement(device)


def remembered(device: str, number: int = -1) -> Placement:
    """The placement that something was pickled on; the CPU where this machine does not have it."""
    found = torch.device(device)
    if found.type == "cuda" and (not torch.cuda.is_available() or (found.index or 0) >= torch.cuda.device_count()):
        return Placement(CPU)
    return Placement(found, number if number < gpu_count() else -1)


def set_default_device(where: torch.device | str | int | None) -> None:
    """New and read indexes go to this device; None restores the rule in this module's docstring."""
    global _default
    _default = None if where is None else place(where).device


def default_device() -> torch.device:
    """Where a new index goes."""
    global _default
    if _default is None:
        asked = os.environ.get("TSSCOMPAT_DEVICE")
        if asked:
            _default = place(asked).device
        else:
            _default = torch.device("cuda", 0) if torch.cuda.is_available() and not virtual_gpus() else CPU
    return _default


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device, or None where nobody can tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return None


def require_memory(n_bytes: int, device: torch.device, what: str, advice: str = "") -> None:
    """Raise before anything is moved when `what` cannot fit on the device; with what would help."""
    free = free_memory(device)
    if free is not None and n_bytes > free:
        needs = f"{what} needs {n_bytes / 2**20:.0f} MiB on {device}, {free / 2**20:.0f} MiB are free there"
        raise OutOfDeviceMemory(needs + advice)


# Bytes on their way at a time, twice over: one piece is filled while the other one travels.
_PIECE = 1 << 26


def carried(tensor: torch.Tensor, device: torch.device, piece: int = _PIECE) -> torch.Tensor:
    """A tensor on a device; a large one goes from the host to a GPU in pieces through pinned buffers.

    A piece is read, from the disk where the tensor is a mapped file, while the one before it is copied, and no copy of the whole is made
    in the host's memory.
    """
    if tensor.device.type != "cpu" or device.type != "cuda" or tensor.nbytes <= piece or not tensor.is_contiguous():
        return tensor.to(device)
    return in_pieces(tensor, torch.empty_like(tensor, device=device), piece)


def in_pieces(source: torch.Tensor, target: torch.Tensor, piece: int) -> torch.Tensor:
    """Fill a contiguous target with a contiguous source of the host, piece by piece."""
    octets, into = source.reshape(-1).view(torch.uint8), target.view(-1).view(torch.uint8)
    on_gpu = target.is_cuda
    rooms = [torch.empty(min(piece, octets.shape[0]), dtype=torch.uint8, pin_memory=on_gpu) for _ in range(2)]
    done = [torch.cuda.Event() for _ in rooms] if on_gpu else []
    for number, start in enumerate(range(0, octets.shape[0], piece)):
        part, room = octets[start : start + piece], rooms[number % 2]
        if on_gpu and number > 1:
            done[number % 2].synchronize()
        room[: part.shape[0]].copy_(part)
        into[start : start + part.shape[0]].copy_(room[: part.shape[0]], non_blocking=True)
        if on_gpu:
            done[number % 2].record(torch.cuda.current_stream(target.device))
    if on_gpu:
        torch.cuda.current_stream(target.device).synchronize()
    return target


def pinned(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory of the host, held in place where there is CUDA, so that copies to a GPU run beside its work.

    The memory is registered as it is: torch's own pinned allocations are rounded up to a power of two, and would be a second copy. Where
    the driver refuses (a limit on locked memory), copies take turns with the work, no more.
    """
    if tensor.device.type != "cpu" or not tensor.nbytes or not torch.cuda.is_available() or tensor.is_pinned():
        return tensor
    runtime, address = torch.cuda.cudart(), tensor.data_ptr()
    if int(runtime.cudaHostRegister(address, tensor.nbytes, 0)) == 0:
        weakref.finalize(tensor, runtime.cudaHostUnregister, address).atexit = False
    else:
        # The refusal is left as CUDA's last error, which the next launch would report as its own.
        with contextlib.suppress(RuntimeError):
            torch.zeros(1, device="cuda")
    return tensor
