"""FAISS's contrib modules, under the name that FAISS's users look for: `import tsscompat.contrib.torch_utils`.

They live in tsscompat/faiss_compat/contrib; here each of them is imported, so that it is one module under two names.
"""

import importlib
import pkgutil
import sys

from tsscompat.faiss_compat import contrib as _home

for _module in pkgutil.iter_modules(_home.__path__):
    globals()[_module.name] = importlib.import_module(f"{_home.__name__}.{_module.name}")
    sys.modules[f"{__name__}.{_module.name}"] = globals()[_module.name]
