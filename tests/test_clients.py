"""How libraries that use FAISS look for it and call it, in programs of their own: the stand-in answers as FAISS does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(tmp_path: Path, script: str, *options: str) -> str:
    """Run a client's script in a fresh interpreter; what it printed."""
    path = tmp_path / "client.py"
    path.write_text(script)
    process = subprocess.run(
        [sys.executable, *options, str(path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


LOOKS = """
import importlib.util
import importlib.metadata
import inspect
assert importlib.util.find_spec("faiss") is not None
assert importlib.util.find_spec("faiss.contrib.torch_utils") is not None
import faiss
assert importlib.metadata.version("faiss-cpu") == importlib.metadata.version("faiss_cpu") == faiss.__version__
assert set(importlib.metadata.packages_distributions()["faiss"]) == {"faiss-cpu"}
assert faiss.__file__ == inspect.getfile(faiss) and faiss.__spec__.name == faiss.__package__ == "faiss"
print(faiss.__version__)
"""


def test_checks_for_an_installed_faiss_are_answered(tmp_path):
    stood_in = run(tmp_path, LOOKS, "-m", "tsscompat", "run")
    assert stood_in == run(tmp_path, LOOKS)  # FAISS itself


# ColBERT and data loaders spawn workers; other programs start Python anew.
SPAWNS = """
import multiprocessing
import subprocess
import sys
{before}
import faiss


def ask(queue):
    import faiss.contrib.torch_utils
    queue.put(faiss.IndexFlatL2.__module__)


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=ask, args=(queue,))
    process.start()
    process.join(100)
    assert process.exitcode == 0
    print(queue.get(timeout=10))
    command = [sys.executable, "-c", "import faiss; print(faiss.IndexFlatL2.__module__)"]
    print(subprocess.run(command, capture_output=True, text=True).stdout)
"""


def test_processes_started_from_a_script_find_the_stand_in(tmp_path):
    spawned, started = run(tmp_path, SPAWNS.format(before=""), "-m", "tsscompat", "run").split()
    assert spawned.startswith("tsscompat.") and started.startswith("tsscompat.")


def test_spawned_processes_of_a_program_that_installed_the_stand_in_find_it(tmp_path):
    """`import faiss` at the head of a module that only the child imports."""
    (tmp_path / "client_part.py").write_text("import faiss\n\n\ndef ask(queue):\n    queue.put(faiss.IndexFlatL2.__module__)\n")
    script = SPAWNS.format(
        before="if __name__ == '__main__':\n    import tsscompat\n    tsscompat.install_as_faiss()\nfrom client_part import ask"
    )
    script = script.replace(
        "\ndef ask(queue):\n    import faiss.contrib.torch_utils\n    queue.put(faiss.IndexFlatL2.__module__)\n", ""
    )
    assert run(tmp_path, script).split()[0].startswith("tsscompat.")


HEAD = """
import faiss
import numpy as np
x = np.random.default_rng(0).standard_normal((60, 8)).astype("float32")
"""
PATTERNS = {
    # GPTCache: ids as a raw pointer into an IDMap of the factory.
    "removal through swig_ptr": """
index = faiss.index_factory(8, "IDMap,Flat", faiss.METRIC_L2)
index.add_with_ids(x, np.arange(len(x)) + 100)
gone = np.array([103, 105], dtype=np.int64)
assert index.remove_ids(faiss.IDSelectorBatch(gone.size, faiss.swig_ptr(gone))) == 2
answer = index.search(x[3:4], 3)[1]
""",
    # langchain, autofaiss, datasets: an index goes through pickle, bytes and Python's own streams.
    "writers that call back": """
import io
index = faiss.IndexHNSWFlat(8, 4)
index.add(x)
stream = io.BytesIO()
faiss.write_index(index, faiss.BufferedIOWriter(faiss.PyCallbackIOWriter(stream.write)))
stream.seek(0)
back = faiss.read_index(faiss.BufferedIOReader(faiss.PyCallbackIOReader(stream.read)))
assert back.ntotal == index.ntotal == faiss.deserialize_index(faiss.serialize_index(index)).ntotal
answer = back.search(x[:4], 1)[1]
""",
    # implicit and sentence-transformers: GPU names are asked for before they are used.
    "lists by inner product, after asking for GPUs": """
assert hasattr(faiss, "get_num_gpus") and isinstance(faiss.get_num_gpus(), int)
index = faiss.IndexIVFFlat(faiss.IndexFlatIP(8), 8, 4, faiss.METRIC_INNER_PRODUCT)
index.train(x)
index.add(x)
index.nprobe = 4
answer = index.search(x[:4], 3)[1]
""",
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_clients_calls_answer_alike(tmp_path, pattern):
    script = HEAD + PATTERNS[pattern] + "print(answer.tolist())"
    assert run(tmp_path, script, "-m", "tsscompat", "run") == run(tmp_path, script)
