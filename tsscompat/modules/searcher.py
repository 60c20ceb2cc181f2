"""Searcher: the interface of all search modules; saving and loading."""

import json
import os
from typing import Any, TypeVar

import torch
from torch import Tensor

from tsscompat.errors import FormatError, check
from tsscompat.modules.part import Part, from_spec

S = TypeVar("S", bound="Searcher")
FORMAT = "tsscompat-module-1"


class Searcher(Part):
    """Finds the rows nearest to queries.

    `forward(queries)` answers distances (n, k) and labels (n, k), int64, for the module's own k, nprobe and efSearch, best first and
    padded with label -1. `search` takes them as arguments, 0 standing for the module's own.
    """

    def __init__(self, metric: int, k: int = 10) -> None:
        super().__init__()
        self.metric, self.k = int(metric), int(k)

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        return self.search(queries, self.k, 0, 0, False)

    @torch.jit.export
    def search(
        self, queries: Tensor, k: int = 0, nprobe: int = 0, efSearch: int = 0, grad: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The k best rows for each query; with `grad`, distances have gradients in queries and stored vectors."""
        distances, labels = self.found(queries, k if k > 0 else self.k, nprobe, efSearch)
        return (distances if grad else distances.detach()), labels

    def found(self, queries: Tensor, k: int, nprobe: int, efSearch: int) -> tuple[Tensor, Tensor]:
        """The search itself."""
        raise NotImplementedError

    def near(self, x: Tensor, k: int, efSearch: int) -> Tensor:
        """The rows of the k nearest, as coarse quantizers are asked; of equally near ones any."""
        return self.found(x, k, 0, efSearch)[1]

    def again(self, queries: Tensor, labels: Tensor) -> Tensor:
        """The distance of each query to the rows (n, m) that it names; anything for -1."""
        raise NotImplementedError

    def vectors(self, rows: Tensor) -> Tensor:
        """The stored vectors of rows (...), as far as they are known."""
        raise NotImplementedError

    def fresh(self: S) -> S:
        """An empty module of the same kind, for load_state_dict."""
        return from_spec(self.spec())  # type: ignore[return-value]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write description and tensors, no code: in safetensors' format where the name ends so, else in torch's."""
        target = os.fspath(path)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        if target.endswith(".safetensors"):
            from safetensors.torch import save_file

            # Safetensors refuses tensors that share memory.
            save_file({n: t.clone() for n, t in state.items()}, target, {"format": FORMAT, "spec": json.dumps(self.spec())})
        else:
            torch.save({"format": FORMAT, "spec": self.spec(), "state": state}, target)


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Searcher:
    """A module that `save` wrote; nothing in the file is run."""
    source = os.fspath(path)
    if source.endswith(".safetensors"):
        from safetensors import safe_open

        with safe_open(source, "pt") as file:
            named: Any = file.metadata() or {}
            held = {"format": named.get("format"), "spec": json.loads(named.get("spec", "null"))}
            held["state"] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    else:
        held = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(held, dict) or held.get("format") != FORMAT:
        raise FormatError(f"{source} was not written by a search module's save()")
    module = from_spec(held["spec"])
    check(isinstance(module, Searcher), "{} holds a {}, which cannot search", source, type(module).__name__)
    module.load_state_dict(held["state"])
    return module.to(device)  # type: ignore[return-value]
