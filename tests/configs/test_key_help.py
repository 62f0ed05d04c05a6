"""`--help KEY` explains every key and every option of a group; `--version`."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.config.groups import CONFIGS, options
from trainer.config.known_keys import OPEN_KINDS, fixed_keys, open_keys
from trainer.config.option_files import groups
from trainer.config.sections import CLOSED


@pytest.mark.parametrize(
    ("topic", "lines"),
    [
        (
            "trainer.learning_rate",
            ["  Peak learning rate.", "  type: a number", "  default: 5e-05"]
            + ["  set it with: trainer.learning_rate=VALUE"]
            + ["  declared in: trainer.settings.TrainSettings"],
        ),
        ("learning_rate", ["trainer.learning_rate", "  Peak learning rate."]),
        ("trainer.learning_rate=3e-4", ["trainer.learning_rate"]),
        ("launch.strategy", ["  accepted: auto, ddp, fsdp", "  set by: launch=default"]),
        ("trainer.precision", ["  accepted: auto, fp32, bf16, fp16"]),
        ("model.path", ["  must be given"]),
        ("seed", ["  default: 0"]),
        ("runs", ["  set by: job=report"]),
        ("from", ["  type: text or null"]),
        ("recipe.crf", ["  with: recipe=token_classification"]),
        ("metrics.squad.no_answer", ["  with: metrics=question_answering"]),
        ("bad_rows", ["dataset.bad_rows"]),
    ],
)
def test_a_key_is_explained(ask: Callable[..., Any], topic: str, lines: list[str]) -> None:
    answer = ask("--help", topic)
    assert (answer.code, answer.err) == (0, "")
    found = answer.out.splitlines()
    assert [line for line in lines if line not in found] == []


def test_every_key_has_a_sentence_and_is_found(ask: Callable[..., Any]) -> None:
    keys = fixed_keys() + [key for group in OPEN_KINDS for key in open_keys(group, [CONFIGS])]
    assert {key.name.partition(".")[0] for key in keys} >= {*CLOSED, *OPEN_KINDS}
    assert [key.name for key in keys if not key.sentence] == []
    some = {key.option: key.name for key in keys if key.option and "=d" in key.option}
    names = [key.name for key in fixed_keys() if key.name != "job"] + sorted(some.values())
    answer = ask("--help", *names)
    assert (answer.code, answer.err) == (0, "")
    assert set(names) <= set(answer.out.splitlines())


def test_every_option_is_explained(ask: Callable[..., Any]) -> None:
    topics = [f"{group}={o}" for group in groups([CONFIGS]) for o in options(group, [CONFIGS])]
    answer = ask("--help", *topics)
    assert (answer.code, answer.err) == (0, "")
    assert set(topics) <= set(answer.out.splitlines())


@pytest.mark.parametrize(
    ("topic", "parts"),
    [
        ("recipe=instruction", ["class of recipe: recipes.instruction.Instruction"]),
        ("recipe=instruction", ["  recipe.train_on=assistant  "]),
        ("dataset=sst2", ["  dataset.path=stanfordnlp/sst2  "]),  # on top of the option files
        ("metrics=question_answering", ["  metrics.squad.no_answer="]),
        ("job=serve", ["  serve.port=8000  ", "file: configs/job/serve.yaml"]),
        ("experiment=sst2_distilbert", ["  trainer.learning_rate=2e-5  ", "Peak learning rate."]),
        ("metrics=none", ["No metrics, only the loss.", "It sets no key."]),
        ("recipe", ["    preference  ", "--help recipe=OPTION"]),
        ("launch", ["    default  ", "  launch.strategy=auto  "]),
        ("output", ["Keys of output:", "  output.file=null  "]),
        ("model.lora", ["model.lora\n", "  model.lora.rank=null  "]),
    ],
)
def test_an_option_and_its_keys(ask: Callable[..., Any], topic: str, parts: list[str]) -> None:
    answer = ask("--help", topic)
    assert (answer.code, answer.err) == (0, "")
    assert [part for part in parts if part not in answer.out] == []


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        ("trainer.learing_rate", "did you mean 'trainer.learning_rate'"),
        ("max_lenth", "'recipe.max_length'"),
        ("recipe.max_lenth", "did you mean 'recipe.max_length'"),
        ("datset", "did you mean 'dataset'"),
        ("training.lr", "here it is trainer.learning_rate"),
        ("recipe=preferense", "recipe: no option 'preferense'; did you mean 'preference'?"),
        ("qqqq", "no key 'qqqq'; accepted: a key, a group, or group=option"),
        ("--nothing", "--nothing: unknown flag"),
    ],
)
def test_an_unknown_key_suggests_others(refused: Callable[..., str], topic: str, said: str) -> None:
    assert said in refused("--help", topic)


def test_keys_of_the_user_are_explained(
    ask: Callable[..., Any], refused: Callable[..., str], tmp_path: Path, monkeypatch: Any
) -> None:
    own = tmp_path / "own" / "recipe"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(
        "# yaml-language-server: $schema=../a.json\n# My recipe.\n_target_: my_parts.Mine\n"
    )
    (tmp_path / "my_parts.py").write_text(
        "from dataclasses import dataclass\nfrom recipes.causal_lm import CausalLM\n"
        '@dataclass(frozen=True)\nclass Mine(CausalLM):\n    depth: int = 3\n    """How deep."""\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    flag = f"--config-dir={own.parent}"
    assert "'my_parts.Mine' is not trusted" in refused(flag, "--help", "recipe=mine")
    answer = ask(flag, "trusted_packages=[my_parts]", "--help", "recipe=mine", "recipe.depth")
    assert "\n  My recipe.\n" in answer.out and "language-server" not in answer.out
    assert "  mine                      My recipe.\n" in ask(flag, "--help").out
    assert "  recipe.depth=3  " in answer.out
    assert "  recipe.text=text  " in answer.out and "with: recipe=mine" in answer.out


def test_arguments_before_the_flag_are_no_topics(ask: Callable[..., Any]) -> None:
    assert ask("seed=3", "--help").out == ask("--help").out


def test_version(ask: Callable[..., Any], repository: Path) -> None:
    version = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]
    assert ask("--version").out == f"tempering {version}\n"


def test_an_editors_files_are_no_options(ask: Callable[..., Any], tmp_path: Path) -> None:
    """Emacs keeps a broken link beside a file while it is edited."""
    folder = tmp_path / "own" / "dataset"
    (folder / "no_file.yaml").mkdir(parents=True)
    (folder / "mine.yaml").write_text("# Mine.\ndefaults: [files, _self_]\ntrain: a.csv\n")
    (folder / ".#mine.yaml").symlink_to("me@host.1:2")
    for arguments in (("--help",), ("--help", "dataset"), ("schema",)):
        answer = ask(f"--config-dir={folder.parent}", *arguments)
        assert answer.code == 0 and "mine" in answer.out, answer
        assert "#mine" not in answer.out and "no_file" not in answer.out
    answer = ask(f"--config-dir={folder.parent}", "dataset=mine", "--cfg", "job")
    assert answer.code == 0 and "train: a.csv" in answer.out
