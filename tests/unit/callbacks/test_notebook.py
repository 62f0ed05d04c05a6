"""A run in the kernel of a notebook: bar, lines and results below the cell; nothing if quiet."""

import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
AsyncKernelManager = pytest.importorskip("jupyter_client").AsyncKernelManager

ROOT = Path(__file__).parents[3]
CELLS = (
    """
    import time
    from dataclasses import dataclass

    from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
    from tests.unit.test_trainer import trainer
    from trainer.callbacks.callback import Callback
    from trainer.trainer import Trainer

    @dataclass
    class Slow(Callback):
        def on_step_measured(self, row):
            time.sleep(0.2)
    """,
    "run = trainer(None); run.add_callback(Slow()); results = run.fit()",
    """
    settings = {"max_steps": 2, "precision": "fp32"}
    given = tiny_model(), RECIPES["single_label"], settings
    quiet = Trainer(*given, train_dataset=ragged_table(40), progress=False)
    results = quiet.fit()
    """,
)


class Client(nbclient.NotebookClient):  # type: ignore[misc, name-defined]
    """Runs a notebook, and keeps what its page has shown, replaced or not."""

    shown: list[tuple[int, str]]

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] in ("display_data", "update_display_data"):
            self.shown.append((cell_index, msg["content"]["data"].get("text/plain", "")))
        return super().process_message(msg, cell, cell_index)


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The beginning of the paths of Unix sockets, which must be short. Only the kernel of this
    Python is found."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("JUPYTER_RUNTIME_DIR", folder)
        monkeypatch.setenv("JUPYTER_DATA_DIR", folder)
        monkeypatch.setenv("IPYTHONDIR", folder)
        yield f"{folder}/socket"


@pytest.mark.slow
def test_progress_is_below_the_cell(sockets: str) -> None:
    cells = [nbformat.v4.new_code_cell(textwrap.dedent(cell).strip()) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    # not at a port, which would be found first and used later
    manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=sockets)
    client = Client(notebook, manager, resources={"metadata": {"path": str(ROOT)}})
    client.startup_timeout, client.iopub_timeout = 600, 600
    client.shown = []
    client.execute()
    training, quiet = notebook.cells[1:]
    kinds = {output["output_type"] for output in training["outputs"]}
    assert kinds == {"display_data"}  # nothing on standard output or error, whose text is red
    pages = [output["data"]["text/html"] for output in training["outputs"]]
    assert any("BertForSequenceClassification" in page for page in pages)
    assert sum("eval" in page and "accuracy" in page for page in pages) >= 3
    assert "finished 9 steps" in pages[-1] and "color: #" in "".join(pages)
    assert not any("━" in page for page in pages)  # the bar has vanished
    bars = [text for cell, text in client.shown if cell == 1 and "━" in text]
    assert len(bars) > 2 and "9/9" not in bars[0] and "loss" in bars[-1] and "epoch" in bars[-1]
    assert quiet["outputs"] == []
