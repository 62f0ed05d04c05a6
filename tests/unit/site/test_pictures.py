"""The pictures of the terminal show what a terminal emulator shows."""

import runpy
import xml.etree.ElementTree as xml
from pathlib import Path

import pyte
import pytest
from rich.text import Text

OUTPUT = (
    "⠋ tempering: starting\r\x1b[2K⠙ train: loading\r\x1b[2K\x1b[2mmodel\x1b[0m  bert\r\n\r\n"
    "\x1b[?25l\x1b[32m1/9\x1b[0m epoch 0.1 ━━ 0:08 left\r\x1b[2K4/9 epoch 0.4 ━━ 0:05 left"
    "\r\x1b[2Keval  step 4\r\n9/9 epoch 1.0 ━━ 0:00 left\r\n\x1b[?25h\r\x1b[1A\x1b[2Kfinished\r\n"
)


@pytest.fixture(scope="module")
def pictures() -> dict[str, object]:
    return runpy.run_path(str(Path(__file__).parents[3] / "docs" / "pictures.py"))


def test_a_screen_is_that_of_an_emulator(pictures):
    screen = pyte.Screen(80, 10)
    pyte.Stream(screen).feed(OUTPUT)
    expected = [line.rstrip() for line in screen.display]
    found = [Text.from_ansi(line).plain for line in pictures["final"](OUTPUT)]
    assert found[:4] == expected[:4] == ["model  bert", "", "eval  step 4", "finished"]
    assert "\x1b[2mmodel" in pictures["final"](OUTPUT)[0]  # colors are kept


def test_a_training_is_drawn_with_its_bar(pictures):
    lines = [Text.from_ansi(line).plain for line in pictures["training"](OUTPUT)]
    assert lines[-1] == "9/9 epoch 1.0 ━━ 0:00 left" and lines[-2] == "eval  step 4"


@pytest.mark.parametrize("name", ["quickstart", "training", "error"])
def test_the_pictures_are_there(repository: Path, name: str) -> None:
    picture = (repository / f"docs/images/{name}.svg").read_text(encoding="utf-8")
    assert xml.fromstring(picture).tag.endswith("svg")
    words = {"quickstart": "peak memory", "training": "epoch", "error": "did you mean"}
    assert words[name] in picture.replace("\u00a0", " ")
