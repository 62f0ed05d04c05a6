"""Configs that expand, leave their folders or hold impossible numbers fail fast with one line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.config.interpolations import MAX_CHARACTERS, _Sizes, check_expansion
from trainer.errors import InputError
from trainer.launching.place import WORKER
from trainer.runs.run import Run

Composed = Callable[..., Run]
Refused = Callable[..., str]


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[[str], None]:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)

    def write(text: str) -> None:
        (tmp_path / "mine/experiment/x.yaml").write_text(f"# @package _global_\n{text}")

    return write


def twenty(key: str) -> str:
    return json.dumps([f"${{{key}}}"] * 20)


MINE = ("--config-dir", "mine", "experiment=x")


def test_interpolations_that_multiply(
    experiment: Callable[[str], None],
    refused: Refused,
    composed: Composed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each entry is looked at once, although the texts would have 10**10 characters."""
    looked: list[object] = []
    usual = _Sizes._sum
    monkeypatch.setattr(_Sizes, "_sum", lambda *of: looked.append(of[1]) or usual(*of))
    ten = "".join(f'  l{i}: "{f"${{recipe.l{i - 1}}}" * 10}"\n' for i in range(1, 10))
    for text in (
        f'recipe:\n  l0: "aaaaaaaaaa"\n{ten}',
        f'recipe:\n  l0: "aaaaaaaaaa"\n{ten.replace("${recipe.", "${.")}',
        f'recipe:\n  l0: "aaaaaaaaaa"\n{ten.replace("${recipe.", "${oc.select:recipe.")}',
        f'recipe:\n  s: recipe\n  l0: "aaaaaaaaaa"\n{ten.replace("${recipe.", "${${.s}.")}',
        f"recipe:\n  l0: aaaaaaaaaa\n{ten.replace('${recipe.', '${${oc.env:NO,recipe}.')}",
        "a: [aaaaaaaaaa]\n"
        + "".join(f"{c}: {twenty(b)}\n" for b, c in ("ab", "bc", "cd", "de"))
        + "f: ['${e}', '${e}', '${e}', '${e}']\n",
        f'recipe: {{text: "{"x" * (MAX_CHARACTERS - 70_000)}", label: "{"${recipe.text}" * 2}"}}',
    ):
        experiment(text)
        assert "characters after interpolation; accepted: fewer" in refused(*MINE)
    assert 0 < len(looked) < 3000
    experiment('recipe: {text: "a${seed}", label: "${.text}${recipe.text}"}')
    assert composed(*MINE).recipe.label == "a0a0"  # type: ignore[union-attr]
    experiment('recipe: {text: "a${seed}", label: "${recipe.${.sep}}", sep: text}\nname: ""')
    assert refused(*MINE).startswith("name: unknown key")  # the interpolations were resolved
    experiment('recipe: {text: "${recipe.label}", label: "${recipe.text}"}')
    refused(*MINE)


def test_keys_of_which_only_the_beginning_is_known() -> None:
    """As of folders that differ from machine to machine."""
    files = [f"${{root}}/{number}.jsonl" for number in range(40)]
    roots = {"a": "/data", "b": "/mnt/data"}
    check_expansion({"roots": roots, "root": "${roots.${oc.env:MACHINE}}", "train": files})
    roots["b"] = "x" * (MAX_CHARACTERS // 30)
    with pytest.raises(InputError, match="^train: more than"):
        check_expansion({"roots": roots, "root": "${roots.${oc.env:MACHINE}}", "train": files})
    nested = {f"l{n}": f"${{oc.select:o.${{oc.env:L,l{n + 1}}}}}" * 9 for n in range(10)}
    with pytest.raises(InputError, match="^o.*: more than"):
        check_expansion({"o": nested})


def test_keys_of_thousands_of_digits(experiment: Callable[[str], None], refused: Refused) -> None:
    experiment(f'recipe: {{words: [a], text: "${{recipe.words.{"1" * 5000}}}"}}')
    assert "\n" not in refused(*MINE).strip()


@pytest.mark.parametrize(
    "entry",
    [
        *("../../../secret", "/../x", "experiment: ../x", "dataset: [a, ../../x]", "file:///etc/x"),
        *("/dataset: .hidden", "override /dataset: a/.hidden"),
    ],
)
def test_defaults_that_leave_the_folders(
    entry: str, experiment: Callable[[str], None], refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "secret.yaml").write_text("seed: 5\n")
    experiment(f"defaults:\n  - {entry}\n")
    assert refused(*MINE).startswith(f"{tmp_path}/mine/experiment/x.yaml: defaults: found")


def test_hydras_own_settings_in_a_file(experiment: Callable[[str], None], refused: Refused) -> None:
    experiment("hydra: {searchpath: [file:///etc]}\n")
    assert "x.yaml: found hydra.searchpath; accepted" in refused(*MINE)


def test_what_is_no_file(experiment: Callable[[str], None], refused: Refused) -> None:
    experiment("seed: 1\n")
    os.mkfifo("mine/experiment/y.yaml")
    assert "y.yaml: is not a regular file" in refused(*MINE)


@pytest.mark.parametrize(
    "value", ["1" * 400, "-" + "9" * 30, "1e400", "-inf", "nan", "'" + "9" * 5000 + "'"]
)
def test_numbers_out_of_bounds(value: str, refused: Refused) -> None:
    for key in ("trainer.learning_rate", "trainer.max_steps", "seed"):
        assert refused(f"{key}={value}").startswith(f"{key}: found")


def test_a_config_in_the_environment_that_is_none(repository: Path) -> None:
    for value in (
        "",
        "[",
        "3",
        "{}",
        "tree: 3\nchoices: {overrides: 3}",
        json.dumps([[]] * 9),
        "zlib:eA==",
    ):
        done = subprocess.run(
            [sys.executable, "-c", "import launch, sys; sys.exit(launch.main([]))"],
            cwd=repository,
            env={**os.environ, WORKER: value, "RANK": "0"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert (done.returncode, done.stdout) == (2, ""), value
        assert done.stderr.startswith(f"error: {WORKER}: not the config of a run"), value
        assert done.stderr.count("\n") == 1
