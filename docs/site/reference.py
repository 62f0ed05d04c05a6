"""The reference: pages of every key, recipe, metric, callback and option, from code and YAML."""

import inspect
import json
import re
from collections.abc import Callable, Iterable
from itertools import takewhile

import trainer
from trainer.config.assemble import CLOSED
from trainer.config.groups import CONFIGS, options
from trainer.config.help import FLAGS
from trainer.config.key_help import accepted_values, comment_of, type_words
from trainer.config.known_keys import Key, fixed_keys, option_keys
from trainer.config.option_files import groups, option_file, option_values, set_keys
from trainer.config.typed import NOT_GIVEN, plain, show
from trainer.metrics.named import known_metrics

FOLDERS = [CONFIGS]


def pages() -> dict[str, str]:
    """Path in the site -> Markdown, for every page of the reference."""
    written: dict[str, Callable[[], str]] = {
        "command.md": command_page,
        "keys.md": keys_page,
        "recipes.md": recipes_page,
        "datasets.md": datasets_page,
        "metrics.md": metrics_page,
        "callbacks.md": callbacks_page,
        "options.md": options_page,
        "python.md": python_page,
    }
    return {f"reference/{name}": write() for name, write in written.items()}


def command_page() -> str:
    """The flags and the jobs of the command."""
    jobs = [f"| `job={name}` | {words('job', name)} |" for name in options("job", FOLDERS)]
    lines = [
        "# The command",
        "`python launch.py` (after an installation also `tempering`) takes flags and settings"
        " (`key=value`).",
        f"```text\n{FLAGS.strip()}\n```",
        "## Jobs",
        "\n".join(["| job | meaning |", "|---|---|", *jobs]),
        "[Keys](keys.md) lists the settings; see also the [exit codes](../running.md#exit-codes).",
    ]
    return "\n\n".join(lines)


def keys_page() -> str:
    """The keys at the top and those of the sections with fixed keys."""
    keys = fixed_keys()
    lines = [
        "# Keys",
        "Settings of every run. Those of `dataset`, `recipe`, `metrics` and `callbacks` depend on"
        " the chosen option: [recipes](recipes.md), [data sets](datasets.md),"
        " [metrics](metrics.md), [callbacks](callbacks.md). `python launch.py --help KEY` explains"
        " one of them.",
        "## At the top",
        key_table(key for key in keys if "." not in key.name),
    ]
    for section, cls in CLOSED.items():
        inside = [key for key in keys if key.name.startswith(f"{section}.")]
        lines += [f"## {section}", plainly(first_sentence(cls)), key_table(inside)]
    return "\n\n".join(lines)


def recipes_page() -> str:
    """Every recipe with its keys."""
    head = "# Recipes\n\nA recipe is a task. `recipe=NAME` chooses one; [tasks](../tasks/index.md)"
    parts = [f"{head} explains them by example."]
    for option in options("recipe", FOLDERS):
        keys = option_keys("recipe", option, FOLDERS)
        named = f"In Python: `{keys[0].home.rpartition('.')[2]}`." if keys else ""
        parts += [f"## {option}", f"{words('recipe', option)} {named}", key_table(keys)]
    return "\n\n".join(parts)


def datasets_page() -> str:
    """The keys of data sets from files and of those that are generated, and the known data sets."""
    parts = [
        "# Data sets",
        "`dataset=NAME` chooses one; [data](../data.md) describes how files are read.",
    ]
    described: dict[str, str] = {}
    for option in options("dataset", FOLDERS):
        keys = option_keys("dataset", option, FOLDERS)
        parts += [f"## {option}", words("dataset", option)]
        same = described.setdefault(keys[0].home, option)
        parts.append(
            key_table(keys) if same == option else f"Its keys are those of [{same}](#{same})."
        )
    return "\n\n".join(parts)


def metrics_page() -> str:
    """The sets of metrics, and every single metric."""
    rows = []
    for option in options("metrics", FOLDERS):
        names = ", ".join(f"`{name}`" for name in option_values("metrics", option, FOLDERS))
        rows.append(f"| `metrics={option}` | {words('metrics', option)} | {names} |")
    single = []
    for name, metric in sorted(known_metrics().items()):
        kinds = ", ".join(metric.kinds) or "any"
        single.append(f"| `{name}` | {plainly(first_sentence(type(metric)))} | {kinds} |")
    return "\n\n".join(
        [
            "# Metrics",
            "## Sets",
            "\n".join(["| option | meaning | metrics |", "|---|---|---|", *rows]),
            "## Single metrics",
            'Choose them in Python with `metrics="f1"` or a list of names, and in a config with a'
            " `_target_`. The last column lists the kinds of values that a metric can compare; each"
            " recipe has one of these kinds.",
            "\n".join(["| name | meaning | compares |", "|---|---|---|", *single]),
            "## Keys",
            *(_keys_of_option("metrics", option, "###") for option in options("metrics", FOLDERS)),
        ]
    )


def callbacks_page() -> str:
    """Every option of callbacks with its keys."""
    found = (_keys_of_option("callbacks", name, "##") for name in options("callbacks", FOLDERS))
    head = "`callbacks=NAME` chooses one; `trainer.trackers=[tensorboard,wandb]` several trackers."
    return "\n\n".join(["# Callbacks", head, *found])


def _keys_of_option(group: str, option: str, level: str) -> str:
    keys = option_keys(group, option, FOLDERS)
    if not keys:
        return f"{level} {option}\n\n{words(group, option)}" if level == "##" else ""
    return f"{level} {option}\n\n{words(group, option)}\n\n{key_table(keys)}"


def options_page() -> str:
    """The options of the groups without a page of their own, and what they set."""
    elsewhere = {"job", "recipe", "dataset", "metrics", "callbacks"}
    parts = ["# Experiments and other options", "`GROUP=OPTION` applies the settings of a file."]
    for group in groups(FOLDERS):
        if group in elsewhere:
            continue
        parts.append(f"## {group}")
        for option in options(group, FOLDERS):
            values = option_values(group, option, FOLDERS)
            pairs = set_keys(values if group == "experiment" else {group: values}) if values else []
            sets = [code(f"{key}={shown(value)}") for key, value in pairs]
            parts.append(f"**`{group}={option}`**: {words(group, option)}  \n{', '.join(sets)}")
    return "\n\n".join(parts)


def python_page() -> str:
    """The public names of `tempering`, described by mkdocstrings from their docstrings."""
    names = ", ".join(f"`{name}`" for name in trainer.__all__)
    parts = [
        "# Python",
        f"`tempering` has the names {names}, and transformers' names of model classes. Models are"
        " [`PretrainedModel`](#trainer.models.pretrained.PretrainedModel)s; `tempering.recipes` has"
        " the classes of the [recipes](recipes.md).",
    ]
    for title, described in PYTHON.items():
        parts.append(f"## {title}")
        parts += [_described(name) for name in described]
    return "\n\n".join(parts)


PYTHON: dict[str, tuple[str, ...]] = {
    "Training": ("Trainer", "TrainSettings", "LoRASettings"),
    "Models and tokenizers": ("trainer.models.pretrained.PretrainedModel", "Tokenizer"),
    "Using a model": ("pipeline", "generate", "GenerationSettings"),
    "Parts of your own": (
        "trust",
        "trainer.tasks.recipe.Recipe",
        "trainer.metrics.score.Score",
        "trainer.metrics.metric.Metric",
        "trainer.callbacks.callback.Callback",
        "trainer.callbacks.callback.Ask",
        "trainer.callbacks.callback.RunFacts",
    ),
}
"""Heading -> the names to describe below it: public ones, or paths of classes to subclass."""
SETTINGS = {
    "TrainSettings": "[`trainer`](keys.md#trainer)",
    "LoRASettings": "[`model.lora`](keys.md#model.lora)",
    "GenerationSettings": "[`generation`](keys.md#generation)",
}
"""Classes whose fields are keys -> where these are described."""


def _described(name: str) -> str:
    path = name
    if "." not in name:
        found = getattr(trainer, name)
        path = f"{found.__module__}.{found.__qualname__}"
    title = name.rpartition(".")[2]
    choices: dict[str, object] = {"heading": title, "toc_label": title}
    if name in SETTINGS:
        choices["members"] = False
    text = f"::: {path}\n    options: {json.dumps(choices)}"
    return f"{text}\n\nIts fields are the keys of {SETTINGS[name]}." if name in SETTINGS else text


def key_table(keys: Iterable[Key]) -> str:
    """A table of keys: name, type, default, accepted values, and the sentence."""
    rows = [_row(key) for key in keys]
    return "\n".join(["| key | meaning |", "|---|---|", *rows]) if rows else "No keys of its own."


def _row(key: Key) -> str:
    facts = [type_words(key.hint)]
    if key.default == NOT_GIVEN:
        facts.append("must be given")
    else:
        facts.append(f"default {code(shown(key.default))}")
    if accepted := accepted_values(key):
        facts.append(f"accepted: {plainly(accepted)}")
    anchor = f"{key.option.partition('=')[2]}.{key.name}" if key.option else key.name
    name = f"{code(key.name)}{{ #{anchor} }}"
    return f"| {name} | {plainly(key.sentence)}<br><small>{'; '.join(facts)}</small> |"


def shown(value: object) -> str:
    """A value as a user types it."""
    return str(value) if isinstance(value, (list, dict, str)) else show(plain(value))


def words(group: str, option: str) -> str:
    """The comment at the top of an option's file, up to its first example."""
    lines = comment_of(option_file(group, option, FOLDERS))
    return plainly(" ".join(takewhile(lambda line: not line.startswith(" "), lines)))


def first_sentence(cls: type[object]) -> str:
    """The first sentence of a class's docstring, on one line."""
    opening = " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", opening)[0]


def code(text: str) -> str:
    """Text as inline code of a table's cell."""
    return f"`{text}`".replace("|", "\\|") if text else "an empty text"


def plainly(text: str) -> str:
    """Plain text, escaped so that Markdown shows it unchanged; paths of documents become links."""
    pieces = re.split(r"(`[^`]+`)", text)
    escaped = [
        piece.replace("|", "\\|")
        if piece.startswith("`")
        else re.sub(r"([\\*_\[\]{}|#])", r"\\\1", piece.replace("<", "&lt;"))
        for piece in pieces
    ]
    found = "".join(escaped)
    return re.sub(r"docs/([\w\\/]+?)\.md", _link, found)


def _link(path: re.Match[str]) -> str:
    page = path.group(1).replace("\\", "")
    return f"[{page.rpartition('/')[2].replace('_', ' ')}](../{page}.md)"
