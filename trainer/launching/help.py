"""What `--help` prints: how to call the launcher, the groups with their options, the keys."""

from pathlib import Path

from trainer.launching.assemble import CLOSED, TOP_LEVEL
from trainer.launching.sentences import field_sentences
from trainer.launching.typed import NOT_GIVEN, plain, show

INTRODUCTION = """\
Fine-tune pretrained models, one command a run. Everything is key=value; what is left out has a
default.
"""
EXAMPLES = {
    "": "the quickstart: real data, offline",
    "dataset.train=a.csv dataset.validation=b.csv model.path=bert-base-uncased": "",
    "experiment=sst2_distilbert trainer.num_epochs=1": "",
    "output_dir=runs/a": "again: continues where it stopped",
    "from=runs/a output_dir=runs/b": "repeat a run",
    "-m trainer.learning_rate=1e-5,3e-5": "a sweep",
    "job=evaluate model.path=runs/a/model dataset=sst2": "",
    'job=predict model.path=runs/a/model input.text="We hope you don\'t hate it."': "",
    'job=generate model=smollm2 input.prompt="What is the capital of France?"': "",
}
"""Arguments -> what they do, where these do not say it."""
FLAGS = """\
Flags:
  -h, --help               this text
  --cfg job                print the whole config of a run, and start nothing
  -m, --multirun           a sweep: a=1,2  a=range(1,4)  a=choice(x,y); one process for each job
  --config-dir DIR         a folder with groups and YAMLs of your own, searched first
  --config-name NAME       another file than config.yaml to begin with
"""


def help_text(folders: list[Path], program: str) -> str:
    """The whole text; `folders` hold the config groups, `program` is how this one is called."""
    examples = [f"  {program} {words:40} {text}".rstrip() for words, text in EXAMPLES.items()]
    parts = [
        INTRODUCTION,
        *examples,
        "",
        FLAGS,
        "Groups, chosen with group=option:",
        *_groups(folders),
    ]
    parts += ["Keys at the top, set with key=value:"]
    parts += [_line(key, "", sentence) for key, (_, sentence) in TOP_LEVEL.items() if key != "job"]
    parts += [_line("from", "", "The folder of a run to repeat, with what else is typed."), ""]
    for section, cls in CLOSED.items():
        parts.append(f"Keys of {section}, set with {section}.key=value:")
        values = plain(cls())
        sentences = field_sentences(cls)
        parts += [_line(key, value, sentences.get(key, "")) for key, value in values.items()]
        parts.append("")
    parts.append("Keys of dataset, recipe, metrics and callbacks: those of what was chosen;")
    parts.append("see --cfg job, and the files in configs/.")
    return "\n".join(parts)


def _groups(folders: list[Path]) -> list[str]:
    lines = []
    groups = {path.name for folder in folders for path in folder.iterdir() if path.is_dir()}
    for group in sorted(groups):
        files = {p.stem: p for f in reversed(folders) for p in (f / group).glob("*.yaml")}
        if files:
            lines.append(f"  {group}")
        lines += [f"    {name:24}  {_opening(path)}" for name, path in sorted(files.items())]
    return [*lines, ""]


def _opening(path: Path) -> str:
    """The comment that a YAML opens with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line.lstrip("# ") for line in lines if line.startswith("# ")]
    sentences = [line for line in comments if not line.startswith("@package")]
    return sentences[0] if sentences else ""


def _line(key: str, value: object, sentence: str) -> str:
    shown = value if isinstance(value, (str, dict)) else show(value)
    name = key if value in ("", NOT_GIVEN) else f"{key}={shown}"
    return f"  {name:34}  {sentence}"
