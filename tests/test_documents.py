"""The documents tell the truth: their Python blocks run, in their order."""

import re
from pathlib import Path

import pytest

DOCUMENTS = ["README.md", "docs/quick_tour.md"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_python_block_runs(
    name: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (repository / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.S | re.M)
    assert blocks
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "document"}
    for number, block in enumerate(blocks):
        code = compile(block, f"{name}, block {number + 1}", "exec")
        exec(code, namespace)
