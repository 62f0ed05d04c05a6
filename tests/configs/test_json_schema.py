"""`schema` prints JSON Schemas that accept every YAML file here, and refuse what composing does."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainer.config.groups import CONFIGS
from trainer.config.json_schema import schema
from trainer.config.option_files import groups

KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
    "object": (dict,),
    "array": (list,),
}
KNOWN = {"type", "pattern", "enum", "anyOf", "allOf", "if", "then", "not", "required", "items"}
KNOWN |= {"properties", "additionalProperties", "description", "default", "examples", "title"}
KNOWN |= {"$schema", "patternProperties"}


def faults(value: Any, rules: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """What a JSON Schema finds wrong with a value."""
    assert set(rules) <= KNOWN, rules
    kinds = rules.get("type", list(KINDS))
    names = [kinds] if isinstance(kinds, str) else kinds
    if not any(_is_a(value, name) for name in names):
        yield f"{where}: {value!r} is no {kinds}"
    if isinstance(value, str) and not re.search(rules.get("pattern", ""), value):
        yield f"{where}: {value!r} is not {rules['pattern']}"
    if value not in rules.get("enum", [value]):
        yield f"{where}: {value!r} is none of {rules['enum']}"
    if "anyOf" in rules and all(list(faults(value, each)) for each in rules["anyOf"]):
        yield f"{where}: {value!r} fits nothing"
    if "not" in rules and not list(faults(value, rules["not"])):
        yield f"{where}: {value!r} is excluded"
    for each in rules.get("allOf", ()):
        yield from faults(value, each, where)
    if "if" in rules and not list(faults(value, rules["if"])):
        yield from faults(value, rules["then"], where)
    yield from _faults_inside(value, rules, where)


def _faults_inside(value: Any, rules: Mapping[str, Any], where: str) -> Iterator[str]:
    if isinstance(value, list) and "items" in rules:
        for entry in value:
            yield from faults(entry, rules["items"], where)
    if isinstance(value, dict):
        yield from (
            f"{where}: no {name}" for name in rules.get("required", ()) if name not in value
        )
        others = rules.get("additionalProperties", {})
        patterns = rules.get("patternProperties", {})
        for key, entry in value.items():
            fitting = [each for pattern, each in patterns.items() if re.search(pattern, str(key))]
            inner = rules.get("properties", {}).get(key, fitting[0] if fitting else others)
            if inner is False:
                yield f"{where}.{key}: unknown"
            else:
                yield from faults(entry, inner, f"{where}.{key}")


def _is_a(value: Any, name: str) -> bool:
    return isinstance(value, KINDS[name]) and (not isinstance(value, bool) or name == "boolean")


def test_every_file_fits_its_schema() -> None:
    found, checked = [], 0
    for group in groups([CONFIGS]):
        rules = schema(group, [CONFIGS])
        for path in (CONFIGS / group).glob("*.yaml"):
            checked += 1
            found += faults(yaml.safe_load(path.read_text()), rules, f"{group}/{path.stem}")
    found += faults(yaml.safe_load((CONFIGS / "config.yaml").read_text()), schema(None, [CONFIGS]))
    assert checked > 70 and found == []


@pytest.mark.parametrize(
    ("group", "text", "said"),
    [
        ("trainer", "learning_rat: 1e-5", ".learning_rat: unknown"),
        ("trainer", "learning_rate: fast", ".learning_rate: 'fast' is not"),
        ("trainer", "compile: 3", ".compile: 3 is no"),
        ("model", "lora: {rnk: 8}", ".lora.rnk: unknown"),
        ("launch", "strategy: dpp", ".strategy: 'dpp' fits nothing"),
        ("recipe", "{_target_: causal_lm, labels: [a]}", ".labels: unknown"),
        ("recipe", "{_target_: recipes.causal_lm.CausalLM, stride: x}", ".stride: 'x' is not"),
        ("recipe", "max_lenth: 3", ".max_lenth: unknown"),
        ("dataset", "{defaults: [files], colums: {}}", ".colums: unknown"),
        ("metrics", "f1: {_target_: f1, avrage: micro}", ".f1: "),
        ("experiment", "trainer: {seed: 1}", ".trainer.seed: unknown"),
        ("experiment", "recipe: {crf: 3}", ".recipe.crf: 3 is no"),
        ("job", "outputs: {}", ".outputs: unknown"),
    ],
)
def test_a_wrong_file_is_refused(group: str, text: str, said: str) -> None:
    found = list(faults(yaml.safe_load(text), schema(group, [CONFIGS])))
    assert any(line.startswith(said) for line in found), found


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ("trainer", "learning_rate: 2e-5"),
        ("trainer", "learning_rate: ${oc.env:RATE}"),
        ("trainer", "num_epochs: '3'"),
        ("trainer", "trackers: ${oc.env:TRACKERS}"),
        ("experiment", "trainer: null"),
        ("recipe", "{_target_: my_package.Mine, anything: 1}"),
        ("callbacks", "{defaults: [default], progress: null}"),
        ("experiment", "{trainer: {eval_steps: epoch}, metrics: {f1: {_target_: f1}}}"),
    ],
)
def test_other_spellings_fit(group: str, text: str) -> None:
    assert list(faults(yaml.safe_load(text), schema(group, [CONFIGS]))) == []


def test_one_file_with_everything() -> None:
    rules = schema(None, [CONFIGS])
    text = "dataset: sst2\nmodel: {path: m}\nexperiment: quickstart\ntrainer.max_steps: 3\n"
    fits = yaml.safe_load(f"{text}job: train\nhydra/sweeper: optuna\nsweep: {{pruner: median}}\n")
    assert list(faults(fits, rules)) == []
    wrong = yaml.safe_load("dataset: 3\nmodle: {}\ntrainer: {max_step: 3}\n")
    assert len(list(faults(wrong, rules))) == 3


def test_the_command_prints_it(ask: Callable[..., Any], refused: Callable[..., str]) -> None:
    answer = ask("schema", "trainer")
    assert (answer.code, answer.err) == (0, "")
    found = json.loads(answer.out)
    assert found["properties"]["learning_rate"]["description"] == "Peak learning rate."
    assert found["properties"]["learning_rate"]["default"] == 5e-5
    assert {"trainer", "recipe", "seed", "defaults"} <= set(
        json.loads(ask("schema").out)["properties"]
    )
    assert refused("schema", "recpe").startswith("schema: no group 'recpe'; did you mean 'recipe'?")
    assert "accepted: one group, or none" in refused("schema", "recipe", "model")
    assert refused("schema", "trainer", "seed=3").startswith("schema: found trainer seed=3;")


def test_the_keys_of_the_user_are_in_it(
    ask: Callable[..., Any], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = repository / "examples" / "extending" / "configs"
    given = ("trusted_packages=[examples.extending]", f"--config-dir={folder}")
    rules = json.loads(ask(*given, "schema", "recipe").out)
    for path in (folder / "recipe").glob("*.yaml"):
        assert list(faults(yaml.safe_load(path.read_text()), rules)) == []
    wrong = {"_target_": "rating", "lable": "x"}
    assert list(faults(wrong, rules)) == [".lable: unknown"]
