"""An index behind a socket, and a client that searches several of them as one."""

from __future__ import annotations

import socket
from multiprocessing.pool import ThreadPool
from typing import Any

from tsscompat.errors import FaissError
from tsscompat.faiss_compat.contrib import rpc
from tsscompat.faiss_compat.heaps import ResultHeap
from tsscompat.faiss_compat.ivflib import try_extract_index_ivf
from tsscompat.faiss_compat.machine import omp_set_num_threads


class SearchServer(rpc.Server):
    """Answers for an index: its methods, and a few of the server's own."""

    def __init__(self, s: socket.socket, index: Any) -> None:
        super().__init__(s)
        self.index = index
        self.index_ivf = try_extract_index_ivf(index)

    def set_nprobe(self, nprobe: int) -> None:
        """Set how many lists searches visit."""
        if self.index_ivf is None:
            raise FaissError("this index has no inverted lists")
        self.index_ivf.nprobe = nprobe

    def set_omp_num_threads(self, nt: int) -> None:
        """Set how many threads searches use."""
        omp_set_num_threads(nt)

    def get_ntotal(self) -> int:
        """How many vectors the index holds."""
        return int(self.index.ntotal)

    def __getattr__(self, f: str) -> Any:
        return getattr(self.__dict__["index"], f)


def run_index_server(index: Any, port: int, v6: bool = False) -> None:
    """Answer for an index for ever."""
    rpc.run_server(lambda s: SearchServer(s, index), port, v6=v6)


class ClientIndex:
    """Indexes of parts of a data set, behind sockets, searched side by side."""

    def __init__(self, machine_ports: list[tuple[str, int]], v6: bool = False) -> None:
        self.sub_indexes = [rpc.Client(machine, port, v6) for machine, port in machine_ports]
        self.ni = len(self.sub_indexes)
        self.pool = ThreadPool(self.ni)
        self.ntotal = self.get_ntotal()
        self.verbose = False

    def set_nprobe(self, nprobe: int) -> None:
        """Set how many lists searches visit."""
        self.pool.map(lambda index: index.set_nprobe(nprobe), self.sub_indexes)

    def set_omp_num_threads(self, nt: int) -> None:
        """Set how many threads each server's searches use."""
        self.pool.map(lambda index: index.set_omp_num_threads(nt), self.sub_indexes)

    def get_ntotal(self) -> int:
        """How many vectors all hold together."""
        return sum(self.pool.map(lambda index: int(index.get_ntotal()), self.sub_indexes))

    def search(self, x: Any, k: int) -> tuple[Any, Any]:
        """The k nearest of all."""
        heap = ResultHeap(x.shape[0], k)
        for distances, labels in self.pool.imap(lambda index: index.search(x, k), self.sub_indexes):
            heap.add_result(distances, labels)
        heap.finalize()
        return heap.D, heap.I


__all__ = ["ClientIndex", "SearchServer", "run_index_server"]
