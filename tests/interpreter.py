"""Triton's interpreter made fast enough for tests: kernels run on CPU tensors, one program after another.

Import it before any kernel. Where there is a CUDA device, kernels are compiled and tensors are put there instead.
"""

from __future__ import annotations

import os
from typing import Any

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

if DEVICE.type == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
    from triton.runtime import interpreter

    class _Kept:
        """What is patched stays so."""

        def restore(self) -> None:
            pass

    _patch, _patched = interpreter._patch_lang, set()

    def _patch_once(fn: Any) -> _Kept:
        # Patching Triton's language takes 6 ms, and the interpreter does it at each call of a function by another.
        which = tuple(sorted(id(v) for v in fn.__globals__.values() if v is interpreter.tl or v is interpreter.tl.core))
        if which not in _patched:
            _patch(fn)
            _patched.add(which)
        return _Kept()

    interpreter._patch_lang = _patch_once
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)
