"""Computation on tensors and small frozen records; it holds no state and knows no FAISS name."""
