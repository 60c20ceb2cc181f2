"""FAISS's contrib modules: Python on top of the API. Also importable as tsscompat.contrib."""
