"""Write the sentence of every key above it, in the YAML files of the config groups.

The sentences are those under the fields of the dataclasses. `python docs/write_sentences.py`
rewrites the files; a test fails if one of them is not up to date.
"""

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from trainer.config.groups import CONFIGS
from trainer.config.known_keys import OPEN_KINDS, fixed_keys, option_keys
from trainer.config.typed import plain
from trainer.settings import TrainSettings

GROUPS = ("callbacks", "dataset", "job", "launch", "metrics", "model", "recipe", "tokenizer")
"""Groups whose files get sentences. A comment in each experiment describes what it sets."""
WIDTH = 100
ALL_DEFAULTS = CONFIGS / "trainer" / "default.yaml"
"""This file sets nothing. Its comments list every key with its default."""


def files() -> list[Path]:
    """The files that have sentences."""
    found = [path for group in GROUPS for path in sorted((CONFIGS / group).glob("*.yaml"))]
    return [*found, ALL_DEFAULTS]


def with_sentences(file: Path) -> str:
    """The text of a file, with the sentence of each key above the key."""
    lines = file.read_text(encoding="utf-8").splitlines()
    if file == ALL_DEFAULTS:
        return "\n".join([lines[0], "", *_defaults(_sentences(file)), "", "{}", ""])
    top = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    header, body = lines[:top], lines[top:]
    while body and not body[0].strip():
        body.pop(0)
    body = _written([line for line in body if not line.lstrip().startswith("#")], _sentences(file))
    blank = [""] if header and body and body[0].startswith("#") else []
    return "\n".join([*header, *blank, *body]) + "\n"


def _defaults(sentences: dict[str, str]) -> list[str]:
    values = yaml.safe_dump(plain(TrainSettings()), sort_keys=False, width=1000)
    body = _written(values.splitlines(), sentences)
    return [line if line.startswith("# ") else f"#   {line}" for line in body]


def _written(body: list[str], sentences: dict[str, str]) -> list[str]:
    """The lines, with a comment above each key that has a sentence and none behind its value."""
    found = dict(_keys(yaml.compose("\n".join(body)), ""))
    lines: list[str] = []
    for number, line in enumerate(body):
        key = found.get(number)
        sentence = sentences.get(key[0]) if key else None
        if key and sentence:
            indent = line[: len(line) - len(line.lstrip())] + "# "
            lines += textwrap.wrap(sentence, WIDTH, initial_indent=indent, subsequent_indent=indent)
            line = line[: key[1]].rstrip() if key[1] else line
        lines.append(line)
    return lines


def _keys(node: yaml.Node | None, where: str) -> Iterator[tuple[int, tuple[str, int]]]:
    """Yield line -> (dotted key, column where its value ends, or 0 if it ends on another line)."""
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        return
    for key, value in node.value:
        dotted = f"{where}.{key.value}" if where else str(key.value)
        line = key.start_mark.line
        is_here = value.end_mark.line == line
        yield line, (dotted, value.end_mark.column if is_here else 0)
        yield from _keys(value, dotted)


def _sentences(file: Path) -> dict[str, str]:
    """Key, as it is written in the file -> its sentence."""
    group = file.parent.name
    keys = option_keys(group, file.stem, [CONFIGS]) if group in OPEN_KINDS else fixed_keys()
    prefix = "" if group == "job" else f"{group}."
    return {k.name.removeprefix(prefix): k.sentence for k in keys if k.name.startswith(prefix)}


def main() -> None:
    """Rewrite the files that are not up to date."""
    for file in files():
        text = with_sentences(file)
        if text != file.read_text(encoding="utf-8"):
            file.write_text(text, encoding="utf-8")
            print(file.relative_to(CONFIGS.parent))


if __name__ == "__main__":
    main()
