"""k-means and quantizers on torch tensors, in FAISS's names; they run where the tensors are."""
