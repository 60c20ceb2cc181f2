"""What the indexes of additive codes differ by: the kind of quantizer that each owns, and the name that it goes by."""

from __future__ import annotations

from typing import Any, ClassVar

from tsscompat.faiss_compat.additive import AdditiveQuantizer
from tsscompat.faiss_compat.attributes import child
from tsscompat.faiss_compat.local_search import LocalSearchQuantizer
from tsscompat.faiss_compat.product_additive import ProductLocalSearchQuantizer, ProductResidualQuantizer
from tsscompat.faiss_compat.residual import ResidualQuantizer


class Owner:
    """An index's part that owns the quantizer of its codes; `aq`, where FAISS's structs point at it, is that very object."""

    _kind: ClassVar[type[Any]]
    _name: ClassVar[str]

    @property
    def aq(self) -> Any:
        return self.__dict__[self._name]

    def _own(self, *shape: Any) -> AdditiveQuantizer:
        """Make the quantizer of a shape."""
        made: AdditiveQuantizer = self._kind(*shape)
        setattr(self, self._name, made)
        return made


class OfResidual(Owner):
    """Codes are a residual quantizer's."""

    rq = child(ResidualQuantizer, "makes the codes")
    _kind, _name = ResidualQuantizer, "rq"


class OfLocalSearch(Owner):
    """Codes are a local search quantizer's."""

    lsq = child(LocalSearchQuantizer, "makes the codes")
    _kind, _name = LocalSearchQuantizer, "lsq"


class OfProductResidual(Owner):
    """Codes are those of residual quantizers side by side."""

    prq = child(ProductResidualQuantizer, "makes the codes")
    _kind, _name = ProductResidualQuantizer, "prq"


class OfProductLocalSearch(Owner):
    """Codes are those of local search quantizers side by side."""

    plsq = child(ProductLocalSearchQuantizer, "makes the codes")
    _kind, _name = ProductLocalSearchQuantizer, "plsq"


__all__: list[str] = []
