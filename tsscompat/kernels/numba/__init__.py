"""CPU twins, compiled by numba on first use."""
