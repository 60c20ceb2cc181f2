"""FAISS's contrib modules, under the name that FAISS's users look for: `import tsscompat.contrib.datasets`.

They live in tsscompat/faiss_compat/contrib; here each of them is imported, so that it is one module under two names. Only `torch_utils`,
whose import changes how indexes behave, lives here, and is imported by nobody but who asks for it.
"""

import importlib
import pkgutil
import sys

from tsscompat.faiss_compat import contrib as _home

for _module in pkgutil.walk_packages(_home.__path__, f"{_home.__name__}."):
    _name = _module.name.removeprefix(f"{_home.__name__}.")
    sys.modules[f"{__name__}.{_name}"] = importlib.import_module(_module.name)
    if "." not in _name:
        globals()[_name] = sys.modules[f"{__name__}.{_name}"]
