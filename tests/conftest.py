"""What every test file may lean on: the subject under test, and hypothesis's settings.

`faiss` is each module that must keep the promises: tsscompat, and FAISS itself, so that a promise FAISS does not keep is found out.
`--subject=tsscompat` or `--subject=faiss` runs one of them only.
"""

from __future__ import annotations

import importlib
import os
import sys

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), max_examples=25)
settings.register_profile("exploring", deadline=None, suppress_health_check=list(HealthCheck), max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

SUBJECTS = ["faiss", "tsscompat"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--subject", choices=[*SUBJECTS, "both"], default="both", help="which module has to keep the promises")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "faiss" in metafunc.fixturenames:
        asked = metafunc.config.getoption("--subject")
        metafunc.parametrize("faiss", SUBJECTS if asked == "both" else [asked], indirect=True, scope="session")


@pytest.fixture(scope="session")
def faiss(request: pytest.FixtureRequest):
    return importlib.import_module(request.param)


@pytest.fixture
def without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing FAISS fails."""
    monkeypatch.setitem(sys.modules, "faiss", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
