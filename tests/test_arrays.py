"""The door: what is taken, what is refused, and that answers come back as they were asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tsscompat.arrays import rows
from tsscompat.errors import ArgumentError

CPU = torch.device("cpu")


class Dlpack:
    """An array of some other library: only __dlpack__ and a shape."""

    def __init__(self, tensor):
        self.tensor, self.shape = tensor, tuple(tensor.shape)

    def __dlpack__(self, **kwargs):
        return self.tensor.__dlpack__()

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


BASE = np.arange(12, dtype=np.float32).reshape(4, 3)
FORMS = {
    "numpy": BASE,
    "float64": BASE.astype(np.float64),
    "float16": BASE.astype(np.float16),
    "int32": BASE.astype(np.int32),
    "fortran": np.asfortranarray(BASE),
    "strided": np.repeat(BASE, 2, axis=0)[::2],
    "reversed": BASE[::-1].copy()[::-1],
    "big endian": BASE.astype(">f4"),
    "torch": torch.from_numpy(BASE),
    "torch bfloat16": torch.from_numpy(BASE).bfloat16(),
    "torch transposed": torch.from_numpy(BASE).t().contiguous().t(),
    "dlpack": Dlpack(torch.from_numpy(BASE)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_arrives_as_the_same_rows(form):
    batch = rows(FORMS[form], 3, CPU)
    assert batch.tensor.dtype == torch.float32 and batch.tensor.is_contiguous()
    assert (batch.tensor.numpy() == BASE).all()


def test_numpy_in_numpy_out_torch_in_torch_out():
    answer = torch.ones(4, 2)
    assert isinstance(rows(BASE, 3, CPU).give_back(answer), np.ndarray)
    assert isinstance(rows(torch.from_numpy(BASE), 3, CPU).give_back(answer), torch.Tensor)


def test_float32_rows_are_not_copied():
    x = BASE.copy()
    assert rows(x, 3, CPU).tensor.data_ptr() == x.ctypes.data


def test_read_only_memory_is_taken_without_warning(recwarn):
    x = BASE.copy()
    x.flags.writeable = False
    assert (rows(x, 3, CPU).tensor.numpy() == BASE).all()
    assert not recwarn.list


@pytest.mark.parametrize(
    "x, error",
    [
        ([[1.0, 2.0, 3.0]], AttributeError),
        (None, AttributeError),
        (BASE[0], ArgumentError),
        (BASE[:, :2], ArgumentError),
        (BASE[None], ArgumentError),
    ],
)
def test_what_is_refused(x, error):
    with pytest.raises(error):
        rows(x, 3, CPU)


def test_output_arrays_are_filled_in_place():
    batch = rows(BASE, 3, CPU)
    for out in (np.empty((4, 2), dtype=np.float32), torch.empty(4, 2)):
        assert batch.give_back(torch.ones(4, 2), out) is out
        assert bool((out == 1).all())
    with pytest.raises(AssertionError):
        batch.give_back(torch.ones(4, 2), np.empty((2, 4), dtype=np.float32))
