"""A directory for the module search path of processes that a program under the stand-in starts: there, too, `faiss` is tsscompat."""
