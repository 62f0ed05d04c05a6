"""The figures of docs/how are what the code draws, and have titles."""

import runpy
import xml.etree.ElementTree as xml
from pathlib import Path


def test_the_figures_are_up_to_date(repository: Path) -> None:
    figures = runpy.run_path(str(repository / "docs/draw_figures.py"))["FIGURES"]
    assert set(figures) == {"batches", "losses", "order", "checkpoints"}
    for name, draw in figures.items():
        drawn = draw()
        file = repository / f"docs/images/{name}.svg"
        assert drawn == file.read_text(encoding="utf-8"), "run: python docs/draw_figures.py"
        assert len(xml.fromstring(drawn)[0].text or "") > 20  # the title
