"""The description of an export: what was written and how it was checked, as JSON and as text."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trainer.checkpoint import files

FACTS, TEXT = "export.json", "README.md"


@dataclass(frozen=True)
class Check:
    """One comparison of the exported model with the original."""

    what: str
    """What was compared, and on which inputs."""
    program: str
    """The program that ran the exported model, with its version."""
    found: str
    """The result: the largest difference, or how many tokens agree."""
    accepted: str
    """The largest accepted difference, "equal", or "reported only" if the check cannot fail."""


@dataclass
class Card:
    """The content of export.json and of the README.md next to it."""

    source: str
    """The path or hub id of the exported model."""
    format: str
    dtype: str
    architecture: str
    """The model's class in transformers, such as BertForSequenceClassification."""
    usage: str
    """A short program that loads the export."""
    language: str = "python"
    """The language of `usage`."""
    inputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Name of each input of an exported graph -> its axes."""
    outputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Name of each output of the graph -> its axes."""
    notes: list[str] = field(default_factory=list)
    """Remarks for the user of the export."""
    checks: list[Check] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write export.json and README.md."""
        facts = {key: value for key, value in asdict(self).items() if key != "language"}
        facts["usage"] = self.usage.strip()
        files.write_json(folder / FACTS, {**facts, "versions": _versions()})
        files.write_text(folder / TEXT, self._text())

    def _text(self) -> str:
        lines = [
            f"# {self.architecture} as {self.format}, {self.dtype}",
            "",
            f"Exported by tempering from `{self.source}`.",
            "",
            f"```{self.language}",
            self.usage.strip(),
            "```",
        ]
        tables = (("Inputs", self.inputs), ("Outputs", self.outputs))
        for title, table in tables:
            if table:
                lines += ["", f"## {title}", "", "| name | axes |", "|---|---|"]
                lines += [f"| `{name}` | {', '.join(axes)} |" for name, axes in _short(table)]
        if self.notes:
            lines += ["", "## Notes", "", *(f"- {note}" for note in self.notes)]
        lines += ["", "## What was checked", ""]
        lines += ["| compared | with | found | accepted |", "|---|---|---|---|"]
        lines += [f"| {c.what} | {c.program} | {c.found} | {c.accepted} |" for c in self.checks]
        return "\n".join(lines) + "\n"


def _short(table: Mapping[str, Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    """The rows of a table of inputs or outputs.

    The caches of all layers share one row, whose name has an N for the layer's number.
    """
    rows = {name.replace(".0.", ".N."): axes for name, axes in table.items() if _is_shown(name)}
    return list(rows.items())


def _is_shown(name: str) -> bool:
    """Whether a name has its own row in the table: it belongs to no layer, or to the first."""
    numbers = [part for part in name.split(".") if part.isdigit()]
    return not numbers or numbers == ["0"]


def _versions() -> dict[str, Any]:
    names = ("tempering", "torch", "onnx", "onnxruntime", "onnxscript", "gguf", "llama-cpp-python")
    found = {name: installed(name) for name in names}
    return {name: number for name, number in found.items() if number}


def installed(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
