"""What the documents say: recipes run, links lead somewhere, commands are as promised."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(document: Path):
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_the_readme_recipe_gives_its_result(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (recipe,) = [b for b in blocks if "index_factory" in b]
    expected = re.search(r"print\(.*?\)\s+# (\[[^\]]*\])", recipe).group(1)
    path = os.pathsep.join(p for p in sys.path if p and Path(p).is_dir())
    run = subprocess.run(
        [sys.executable, "-c", recipe],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.strip() == expected
    assert (tmp_path / "vectors.faiss").stat().st_size > 0


def test_the_readme_names_both_commands():
    text = (ROOT / "README.md").read_text()
    assert "pip install -c constraints.txt . && python -m tsscompat demo" in text
    assert "pip install -c constraints.txt nox && nox -s tests" in text
    assert text.index("import tsscompat as faiss") < 400, "the import line is within the first screen"
