"""Operations on tensors: a definition in torch, fast twins in numba (CPU) and Triton (CUDA)."""
