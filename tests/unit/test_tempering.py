"""`import tempering` and the command, also in a folder that contains a trainer.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tempering
import trainer

OWN = ("trainer.py", "recipes.py", "launch.py")
"""A user's files that have our names."""

USES_ALL = """
import sys
import tempering
from tempering import TrainSettings
from tempering.recipes import CausalLM
from tempering.recipes.causal_lm import CausalLM as SameCausalLM

import recipes.causal_lm
import trainer

assert recipes.causal_lm.CausalLM is CausalLM is SameCausalLM
assert tempering.recipes.CausalLM is CausalLM
assert recipes.causal_lm.__spec__.name == "recipes.causal_lm", recipes.causal_lm.__spec__
assert trainer.TrainSettings is TrainSettings
assert not {"torch", "datasets", "hydra"} & sys.modules.keys()
print(trainer.__file__)
"""
SCRIPT = "from tempering.__main__ import command_line; command_line()"
"""The script that pip installs as the command `tempering`."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in OWN:
        (tmp_path / name).write_text("OWN = True\n")
    return tmp_path


def python(folder: Path, repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a user's folder, which is first on the path."""
    variables = {"PYTHONPATH": os.pathsep.join(map(str, (folder, repository)))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )


def test_it_offers_the_names_of_trainer_and_the_recipes() -> None:
    assert {*trainer.__all__, "recipes"} == {*tempering.__all__} == {*dir(tempering)}
    assert tempering.TrainSettings is trainer.TrainSettings
    with pytest.raises(AttributeError, match="'tempering' has no attribute 'Trainr'"):
        _ = tempering.Trainr
    with pytest.raises(AttributeError, match="'tempering.recipes' has no attribute 'Nothing'"):
        _ = tempering.recipes.Nothing


def test_files_of_the_same_names_do_not_break_it(folder: Path, repository: Path) -> None:
    done = python(folder, repository, "-c", USES_ALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(repository / "trainer" / "__init__.py")
    means = "tempering: 'import {}' means tempering's own package in this process, not {}"
    expected = [means.format(name, folder / f"{name}.py") for name in ("trainer", "recipes")]
    assert done.stderr.splitlines() == expected


@pytest.mark.parametrize("arguments", [("-m", "tempering"), ("-c", SCRIPT)])
def test_they_do_not_break_the_command(
    folder: Path, repository: Path, arguments: tuple[str, ...]
) -> None:
    done = python(folder, repository, *arguments, "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "_target_: recipes.sequence_classification.SequenceClassification" in done.stdout
    assert not {path.name for path in folder.iterdir()} - {*OWN, "__pycache__"}


@pytest.mark.parametrize("name", ["trainer", "recipes"])
def test_a_module_that_was_imported_before_is_refused(
    folder: Path, repository: Path, name: str
) -> None:
    done = python(folder, repository, "-c", f"import {name}\nimport tempering")
    found = f"the module name '{name}' is in use by {folder / name}.py; accepted: another name"
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: tempering: {found}")
