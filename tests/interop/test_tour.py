"""The tour's TensorFlow blocks run, in their order."""

import re
from pathlib import Path

import pytest


@pytest.mark.tensorflow
def test_every_tensorflow_block_runs(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (repository / "docs/quick_tour.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python tensorflow\n(.*?)^```", text, flags=re.S | re.M)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "document"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"quick_tour.md, block {number + 1}", "exec"), namespace)
