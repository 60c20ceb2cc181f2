"""Makes place for the stand-in where this directory is on the module search path (see tsscompat/standin.py)."""

import sys

from tsscompat.standin import install_as_faiss

if __name__ == "faiss":
    del sys.modules["faiss"]  # this file, which stands for no index
    install_as_faiss()
