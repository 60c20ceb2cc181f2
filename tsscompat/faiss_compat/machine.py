"""What FAISS's library says of itself and of the machine: threads, SIMD levels, versions, memory, interruption."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType

from tsscompat import interrupts
from tsscompat.devices import gpu_count
from tsscompat.errors import check
from tsscompat.kernels import threads

# The release of FAISS whose names, files and answers these are.
FAISS_VERSION_MAJOR, FAISS_VERSION_MINOR, FAISS_VERSION_PATCH = 1, 15, 1


def get_version() -> str:
    """The release of FAISS that is implemented."""
    return f"{FAISS_VERSION_MAJOR}.{FAISS_VERSION_MINOR}.{FAISS_VERSION_PATCH}"


VERSION_STRING = get_version()


def getmillisecs() -> float:
    """The clock, in milliseconds."""
    return time.time() * 1e3


def get_cycles() -> int:
    """A counter that only grows, for differences; of nanoseconds, where FAISS counts the processor's cycles."""
    return time.perf_counter_ns()


def swig_version() -> int:
    """FAISS's wheels tell the SWIG that wrapped them; 4.4 stands for: nothing of what older ones did is different here."""
    return 0x040400


def omp_set_num_threads(num_threads: int) -> None:
    """Use at most this many threads from now on."""
    if isinstance(num_threads, bool) or not hasattr(num_threads, "__index__"):
        raise TypeError(f"expected a number of threads, got {num_threads!r}")
    threads.set_max_threads(int(num_threads))


def omp_get_max_threads() -> int:
    """How many threads may be used."""
    return threads.max_threads()


def check_openmp() -> bool:
    """Whether work is shared between threads."""
    return True


def get_compile_options() -> str:
    """What computes: FAISS names instruction sets here, the compilers of torch and numba choose them at run time.

    Where there is a GPU, or a virtual one, CUVS is among it: what scripts ask that word for (CAGRA, `use_cuvs`) is there, by other kernels.
    """
    return "OPTIMIZE TORCH " + ("NUMBA " if importlib.util.find_spec("numba") else "") + ("GPU CUVS " if gpu_count() else "")


def get_mem_usage_kb() -> int:
    """Resident memory of this process, in KiB (its peak where the system tells nothing else)."""
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm", encoding="ascii") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


logger = logging.getLogger("tsscompat")


SIMDLevel_NONE, SIMDLevel_AVX2, SIMDLevel_AVX512, SIMDLevel_AVX512_SPR = 0, 1, 2, 3
SIMDLevel_ARM_NEON, SIMDLevel_ARM_SVE, SIMDLevel_RISCV_RVV, SIMDLevel_AVX512_VPOPCNT, SIMDLevel_COUNT = 4, 5, 6, 7, 8


class SIMDConfig:
    """FAISS's switch between instruction sets. Compiled kernels here always use the machine's: there is one level, NONE."""

    level = SIMDLevel_NONE
    supported_simd_levels = 1 << SIMDLevel_NONE
    avx512_split = False

    @staticmethod
    def auto_detect_simd_level() -> int:
        return SIMDLevel_NONE

    @staticmethod
    def has_dynamic_dispatch() -> bool:
        return False

    @staticmethod
    def is_simd_level_available(level: int) -> bool:
        return level == SIMDLevel_NONE

    @staticmethod
    def set_level(level: int) -> None:
        check(
            level == SIMDLevel_NONE, "SIMD level {} is not available: kernels use the machine's instructions at level NONE", level
        )

    @staticmethod
    def get_level() -> int:
        return SIMDLevel_NONE

    @staticmethod
    def get_level_name() -> str:
        return "NONE"

    @staticmethod
    def get_dispatched_level() -> int:
        return SIMDLevel_NONE


def supported_instruction_sets() -> set[str]:
    """Instruction sets that FAISS's loader could choose between: none needs choosing."""
    return set()


def compiled_simd_levels() -> list[str]:
    """SIMD levels that can be set."""
    return ["NONE"]


class InterruptCallback:
    """Asked between blocks of work whether to go on; a subclass answers in want_interrupt()."""

    def want_interrupt(self) -> bool:
        return False

    @staticmethod
    def clear_instance() -> None:
        """Ask nobody any more."""
        interrupts.ask_when(None)

    @staticmethod
    def check() -> None:
        """Raise if the computation is to stop."""
        interrupts.check()

    @staticmethod
    def is_interrupted() -> bool:
        """Whether the computation is to stop."""
        return interrupts.interrupted()

    @staticmethod
    def get_period_hint(flops: int) -> int:
        """How many iterations of some flops to do between questions."""
        return max(10**8 // (int(flops) + 1), 1)


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + float(seconds)
    return lambda: time.monotonic() > end


class TimeoutCallback(InterruptCallback):
    """Stops computations after a time."""

    def __init__(self) -> None:
        self.set_timeout(0.0)

    @staticmethod
    def reset(timeout_in_seconds: float) -> None:
        """From now on, computations may take this long together."""
        interrupts.ask_when(_after(timeout_in_seconds))

    def set_timeout(self, timeout_in_seconds: float) -> None:
        """From now on, `want_interrupt` of this object says whether so much time has gone."""
        self.timeout, self._over = float(timeout_in_seconds), _after(timeout_in_seconds)

    def want_interrupt(self) -> bool:
        return self._over()


class PythonInterruptCallback(InterruptCallback):
    """What FAISS asks by default: whether the user pressed Ctrl-C. Python raises KeyboardInterrupt between calls by itself."""

    @staticmethod
    def reset() -> None:
        """Ask nothing else any more."""
        interrupts.ask_when(None)


class TimeoutGuard:
    """A `with` block whose computations stop with a RuntimeError after a time."""

    timeout: float

    def __init__(self, timeout_in_seconds: float) -> None:
        self.timeout = timeout_in_seconds

    def __enter__(self) -> None:
        TimeoutCallback.reset(self.timeout)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        PythonInterruptCallback.reset()


__all__ = [
    "FAISS_VERSION_MAJOR",
    "FAISS_VERSION_MINOR",
    "FAISS_VERSION_PATCH",
    "VERSION_STRING",
    "get_cycles",
    "getmillisecs",
    "InterruptCallback",
    "PythonInterruptCallback",
    "SIMDConfig",
    "SIMDLevel_ARM_NEON",
    "SIMDLevel_ARM_SVE",
    "SIMDLevel_AVX2",
    "SIMDLevel_AVX512",
    "SIMDLevel_AVX512_SPR",
    "SIMDLevel_AVX512_VPOPCNT",
    "SIMDLevel_COUNT",
    "SIMDLevel_NONE",
    "SIMDLevel_RISCV_RVV",
    "TimeoutCallback",
    "TimeoutGuard",
    "check_openmp",
    "compiled_simd_levels",
    "get_compile_options",
    "get_mem_usage_kb",
    "get_version",
    "logger",
    "omp_get_max_threads",
    "omp_set_num_threads",
    "supported_instruction_sets",
    "swig_version",
]
