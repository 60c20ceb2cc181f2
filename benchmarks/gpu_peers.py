"""The libraries that benchmarks/gpu.py compares with: FAISS's GPU build, with its own kernels and with cuVS's, and FAISS on a CPU."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch

import tsscompat


class Peers:
    """The libraries that are there to be compared with, and why others are not."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.faiss, self.resources = device, None, None
        self.missing: list[str] = []
        try:
            import faiss
        except ImportError as why:
            self.missing.append(f"faiss: {why}")
            return
        if device.type == "cuda" and (not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0):
            self.missing.append(f"faiss-gpu, cuvs: faiss {faiss.__version__} is here, without a GPU that it can use")
            return
        self.faiss = faiss
        self.resources = faiss.StandardGpuResources() if device.type == "cuda" else None
        if device.type == "cuda" and "cuvs" not in self.names():
            self.missing.append(f"cuvs: not compiled into faiss {faiss.__version__}")

    def names(self) -> list[str]:
        """Which of FAISS's builds can be asked."""
        if self.faiss is None:
            return []
        if self.device.type != "cuda":
            return ["faiss-cpu"]
        return ["faiss-gpu", *(["cuvs"] if "CUVS" in self.faiss.get_compile_options() else [])]

    def attempt(self, name: str, what: str, call: Callable[[], Any]) -> Any:
        """What a call of a peer gives; None where it refuses, which is noted."""
        try:
            return call()
        except (RuntimeError, TypeError, AttributeError, ValueError, AssertionError) as why:
            self.missing.append(
                f"{name}, {what}: {str(why).strip().splitlines()[-1] if str(why).strip() else type(why).__name__}"
            )
            return None

    def indexes(self, what: str, index: Any) -> dict[str, Any]:
        """An index of ours as those of the peers that take it; by way of a file, as it is in all."""
        if not self.names():
            return {}
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
            path = os.path.join(folder, "index")
            tsscompat.write_index(index, path)
            read = self.faiss.read_index(path)
        if self.device.type != "cuda":
            return {"faiss-cpu": read}
        made = {}
        for name in self.names():
            options = self.faiss.GpuClonerOptions()
            options.use_cuvs = name == "cuvs"
            made[name] = self.attempt(name, what, lambda: self.faiss.index_cpu_to_gpu(self.resources, 0, read, options))
        return {name: one for name, one in made.items() if one is not None}

    def graph(self, index: Any, y: torch.Tensor) -> tuple[str, Any, Callable[[int], Any]] | None:
        """cuVS's graph of its own, or on a CPU ours in FAISS's hands; and the parameters of a search with so many candidates."""
        if self.faiss is None:
            return None
        if self.device.type != "cuda":
            return "faiss-cpu", self.indexes("CAGRA", tsscompat.index_gpu_to_cpu(index))["faiss-cpu"], self._hnsw_parameters
        if "cuvs" not in self.names():
            return None

        def built() -> Any:
            made = self.faiss.GpuIndexCagra(self.resources, y.shape[1], self.faiss.METRIC_L2)
            made.train(y.cpu().numpy())
            return made

        made = self.attempt("cuvs", "CAGRA", built)
        return None if made is None else ("cuvs", made, lambda kept: self.faiss.SearchParametersCagra(itopk_size=kept))

    def _hnsw_parameters(self, kept: int) -> Any:
        return self.faiss.SearchParametersHNSW(efSearch=kept)

    def search(
        self, index: Any, x: torch.Tensor, k: int, params: Any = None
    ) -> tuple[Callable[[], Any], Callable[[], torch.Tensor]]:
        """A call that searches, and one that gives the ids found; with tensors on the GPU where it is one."""
        if self.device.type != "cuda":
            rows = x.numpy()
            return lambda: index.search(rows, k, params=params), lambda: torch.from_numpy(index.search(rows, k, params=params)[1])
        distances = torch.empty(x.shape[0], k, device=x.device)
        labels = torch.empty(x.shape[0], k, dtype=torch.int64, device=x.device)
        pointers = (
            self.faiss.cast_integer_to_float_ptr(x.data_ptr()),
            k,
            self.faiss.cast_integer_to_float_ptr(distances.data_ptr()),
            self.faiss.cast_integer_to_idx_t_ptr(labels.data_ptr()),
            *(() if params is None else (params,)),
        )

        def call() -> None:
            index.search_c(x.shape[0], *pointers)
            self.resources.syncDefaultStreamCurrentDevice()

        return call, lambda: (call(), labels)[1]
