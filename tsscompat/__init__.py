"""FAISS's Python API, computed by PyTorch: `import tsscompat as faiss`."""

from tsscompat.devices import default_device as default_device
from tsscompat.devices import set_default_device as set_default_device
from tsscompat.faiss_compat import *

__version__ = "0.1.0"
