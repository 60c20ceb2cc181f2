"""FAISS's Python API, computed by PyTorch: `import tsscompat as faiss`."""

from typing import Any as _Any

from tsscompat.devices import default_device as default_device
from tsscompat.devices import set_default_device as set_default_device
from tsscompat.faiss_compat import *
from tsscompat.faiss_compat.gaps import absent as __getattr__  # noqa: F401 - a missing name says why

__version__ = "0.1.0"


def install_as_faiss() -> _Any:
    """From now on `import faiss` in this process gives tsscompat (see tsscompat/standin.py)."""
    from tsscompat import standin

    return standin.install_as_faiss()
