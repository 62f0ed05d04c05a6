"""The YAML files of the config groups carry the sentences of their keys, as they are today."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainer.config.groups import CONFIGS
from trainer.config.typed import plain
from trainer.settings import TrainSettings


@pytest.fixture(scope="module")
def script(repository: Path) -> dict[str, Any]:
    return runpy.run_path(str(repository / "docs" / "write_sentences.py"))


def test_files_carry_the_sentences_of_their_keys(script: dict[str, Any]) -> None:
    files = script["files"]()
    assert len(files) > 50
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert text == script["with_sentences"](file), f"{file}: run docs/write_sentences.py"


def test_values_stay_as_they_are(script: dict[str, Any], tmp_path: Path) -> None:
    text = "# A header.\nhost: a#b  # old\n# older\nport: 8000\napi_key: '# no'\nchat: {a: 1}\n"
    file = tmp_path / "serve" / "x.yaml"
    file.parent.mkdir()
    file.write_text(text)
    found = script["with_sentences"](file)
    assert yaml.safe_load(found) == yaml.safe_load(text)
    assert "old" not in found and found.startswith("# A header.\n\n# ")
    assert found.count("\n# ") == 2
    file.write_text(found)
    assert script["with_sentences"](file) == found


def test_no_key_of_the_defaults_is_missing() -> None:
    shown = (CONFIGS / "trainer" / "default.yaml").read_text().splitlines()
    values = "\n".join(line.removeprefix("#   ") for line in shown if line.startswith("#   "))
    assert yaml.safe_load(values) == plain(TrainSettings())
