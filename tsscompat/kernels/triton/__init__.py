"""CUDA twins, compiled by Triton on first use."""
