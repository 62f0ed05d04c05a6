"""Help: the text of `--help`, with examples, flags, the groups with their options, and the keys."""

from pathlib import Path

from trainer.config.groups import options
from trainer.config.option_files import option_file
from trainer.config.sections import CLOSED, KEYS_OF_JOBS, TOP_LEVEL
from trainer.config.sentences import field_sentences
from trainer.config.typed import NOT_GIVEN, plain, show

INTRODUCTION = """\
Fine-tune pretrained models, one command for each run. Settings are key=value; all have defaults.
"""
EXAMPLES = {
    "": "the quickstart: real data, offline",
    "dataset.train=a.csv dataset.validation=b.csv model.path=bert-base-uncased": "",
    "experiment=sst2_distilbert trainer.num_epochs=1": "",
    "output_dir=runs/a": "choose the folder; the same command again resumes the run",
    "from=runs/a output_dir=runs/b": "repeat a run",
    "-m trainer.learning_rate=1e-5,3e-5": "a sweep",
    "job=evaluate model.path=runs/a/model dataset=sst2": "",
    'job=predict model.path=runs/a/model input.text="We hope you don\'t hate it."': "",
    'job=generate model=smollm2 input.prompt="What is the capital of France?"': "",
}
"""The arguments of an example -> an explanation, which is empty if none is needed."""
FLAGS = """\
Flags:
  -h, --help               print this text
  --help KEY               explain a key, a group, or an option (recipe=causal_lm)
  --version                print the version
  schema [GROUP]           print the JSON Schema of a group's files, or of a whole config
  --cfg job                print the whole config of a run without starting it
  -m, --multirun           run a sweep: a=1,2  a=range(1,4)  a=choice(x,y); a process for each job
  --info [WHAT]            print Hydra's searchpath, plugins, defaults, defaults-tree or config
  --shell-completion       install=bash (or zsh, fish): print a shell completion script
  FILE.yaml                read all settings from this file; also --config FILE
  --config-dir DIR         search this folder of your own config groups and YAML files first
  --config-name NAME       start from this file instead of config.yaml
"""


DIRECTIVES = ("@package", "yaml-language-server:")
"""The prefixes of comments that Hydra or an editor reads."""


def help_text(folders: list[Path], program: str) -> str:
    """The text of `--help`.

    `folders` contain the config groups; the examples start with `program`.
    """
    examples = [f"  {program} {words:40} {text}".rstrip() for words, text in EXAMPLES.items()]
    parts = [
        INTRODUCTION,
        *examples,
        "",
        FLAGS,
        "Groups, chosen with group=option:",
        *option_lines(folders),
    ]
    parts += ["Top-level keys, set with key=value:"]
    parts += [
        key_line(key, "", sentence) for key, (_, sentence) in TOP_LEVEL.items() if key != "job"
    ]
    parts += [key_line(key, "", sentence) for key, (_, sentence) in KEYS_OF_JOBS.items()]
    parts += [
        key_line(
            "from", "", "The folder of a run to repeat; the other overrides change its config."
        ),
        "",
    ]
    for section, cls in CLOSED.items():
        parts.append(f"Keys of {section}, set with {section}.key=value:")
        values = plain(cls())
        sentences = field_sentences(cls)
        parts += [key_line(key, value, sentences.get(key, "")) for key, value in values.items()]
        parts.append("")
    parts.append(
        "Keys of dataset, recipe, metrics and callbacks depend on the options that are chosen:"
    )
    parts.append("see --help recipe=OPTION, --cfg job, and the files in configs/.")
    return "\n".join(parts)


def option_lines(folders: list[Path]) -> list[str]:
    lines = []
    groups = {path.name for folder in folders for path in folder.iterdir() if path.is_dir()}
    for group in sorted(groups):
        names = options(group, folders)
        if names:
            lines.append(f"  {group}")
        lines += [f"    {o:24}  {opening(option_file(group, o, folders))}" for o in names]
    return [*lines, ""]


def opening(path: Path) -> str:
    """The first comment in a YAML file; empty if there is none."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line.lstrip("# ") for line in lines if line.startswith("# ")]
    sentences = [line for line in comments if not line.startswith(DIRECTIVES)]
    return sentences[0] if sentences else ""


def key_line(key: str, value: object, sentence: str) -> str:
    shown = value if isinstance(value, (str, dict)) else show(value)
    name = key if value in ("", NOT_GIVEN) else f"{key}={shown}"
    return f"  {name:34}  {sentence}"
