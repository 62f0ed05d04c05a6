"""Every shipped experiment and every job, on one process and on two: none ends with exit code 1.

Models and data are small; everything else is as shipped. The tests on two processes are slow.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import launch
from tests.jobs.conftest import DATA, sentences, tiny, write_tables  # noqa: F401 (a fixture)
from trainer.config.command import parse
from trainer.config.composing import compose_run
from trainer.config.groups import CONFIGS
from trainer.config.sweeps.prepared import prepared
from trainer.errors import InputError

ONE_STEP = ("trainer.max_steps=1", "trainer.global_batch_size=4", "trainer.eval_steps=0")
SMALL = "{hidden_size: 16, num_attention_heads: 2, num_key_value_heads: 1, num_hidden_layers: 1}"
SCRATCH = ("model=small_llama", "tokenizer=learnt", "tokenizer.vocab_size=300")
LLAMA = (f"model.config={SMALL}", "recipe.max_length=32")
SAMPLES = ("callbacks.samples.generation.max_new_tokens=2",)
FEW = ("dataset.packages=2", "dataset.max_train_rows=16", "dataset.max_eval_rows=4")
BERT = "model.path=bert"

EXPERIMENTS: dict[str, tuple[str, ...]] = {
    "gsm8k_smollm2": ("model.path=writer/model", "dataset.train=gsm8k.jsonl"),
    "mnli_bert": (BERT, "dataset.path=mnli", "dataset.name=null"),
    "mrpc_bert": (BERT, "dataset.path=mrpc", "dataset.name=null"),
    "preference_quickstart": ("model.path=writer/model", "recipe.max_length=256", *SAMPLES),
    "quickstart": (BERT, *FEW),
    "reward_quickstart": (BERT,),
    "seq2seq_quickstart": ("dataset.rows=40",),
    "sst2_distilbert": (BERT, "dataset.path=sst2"),
    "sst2_minilm_local": (
        BERT,
        "dataset.train=train.tsv",
        "dataset.validation=dev.tsv",
        "trainer.eval_steps=1",
    ),
    "stdlib_llama": (*LLAMA, *FEW, *SAMPLES, "tokenizer.vocab_size=300"),
    "stsb_embedding": (BERT, "dataset.train=stsb.csv", "recipe.group_size=2"),
    "stsb_bert": (BERT, "dataset.path=stsb", "dataset.name=null"),
    "tinyshakespeare": (*LLAMA, *SAMPLES, "dataset.train=input.txt", "tokenizer.vocab_size=300"),
}
"""Experiment -> overrides that replace unavailable data and models."""
OF_RECIPES: dict[str, tuple[str, ...]] = {
    "quickstart": FEW,
    "distillation_quickstart": ("recipe.teacher=recipes/quickstart/model", *FEW),
    "masked_lm_quickstart": FEW,
    "multi_task_quickstart": FEW,
    "multiple_choice_quickstart": FEW[1:],
    "question_answering_quickstart": (*FEW, "recipe.max_length=128"),
    "reranking_quickstart": FEW[1:],
    "sentence_embedding_quickstart": (*FEW[1:], "recipe.group_size=2"),
    "token_classification_quickstart": FEW[1:],
}
"""Experiments that read the standard library, in this order; one process reads it once."""

JOBS: dict[str, tuple[str, ...]] = {
    "a table without a header": ("dataset.train=train.tsv", "dataset.has_header=false",
        "dataset.columns={0: text, 1: label}", BERT, *ONE_STEP),
    "a dropped row": ("dataset.train=bad.csv", "dataset.bad_rows=drop", BERT, *ONE_STEP),
    "adapters": (*DATA, BERT, "model.lora.rank=2", *ONE_STEP),
    "a repeated run": ("from=run",),
    "evaluate": ("job=evaluate", "model.path=run/model", *DATA),
    "evaluate a run": ("from=run", "job=evaluate"),
    "predict a text": ("job=predict", "model.path=run/model", "input.text=We hope you don't."),
    "predict a file": ("job=predict", "model.path=run/model", "input.file=dev.jsonl",
        "output.file=out.jsonl"),
    "inspect": ("job=inspect", BERT, *DATA),
    "merge": ("job=merge", "model.path=adapted/model", "output.path=merged"),
    "export": ("job=export", "model.path=run/model", "output.path=exported",
        "format=safetensors", "dtype=bf16"),
    "plan": ("job=plan", BERT),
    "report": ("job=report", "runs=run"),
    "show": ("job=show", "run=run"),
    "generate": ("job=generate", "model.path=writer/model", "input.prompt=A day",
        "generation.max_new_tokens=2"),
    "generate for a file": ("job=generate", "model.path=writer/model", "input.file=prompts.jsonl",
        "generation.max_new_tokens=2"),
}  # fmt: skip


TRAINED, WRITER = "model.path=run/model", "model.path=writer/model"
README: dict[str, tuple[str, ...]] = {
    "": (BERT, *FEW, *ONE_STEP),
    "dataset.train=train.csv dataset.validation=dev.csv model.path=distilbert-base-uncased": (
        BERT,
        *ONE_STEP,
    ),
    "experiment=stsb_bert": (*EXPERIMENTS["stsb_bert"], *ONE_STEP),
    "dataset.train=toxic.csv recipe.label_separator='|'": (BERT, *ONE_STEP),
    "recipe=instruction dataset.train=chats.jsonl model.path=... model.lora.rank=16": (
        WRITER,
        "recipe.max_length=64",
        "dataset.validation_fraction=0",
        *ONE_STEP,
    ),
    "experiment=tinyshakespeare dataset.train=input.txt": (
        *EXPERIMENTS["tinyshakespeare"],
        *ONE_STEP,
    ),
    "dataset.train=reviews.csv 'dataset.columns={review: text, stars: label}' "
    "recipe.problem=single_label output_dir=runs/reviews": (
        BERT,
        *DATA,
        "dataset.columns={}",
        *ONE_STEP,
    ),
    'job=predict model.path=runs/reviews/model input.text="Great value."': (TRAINED,),
    "job=evaluate model.path=runs/a/model dataset=sst2": (TRAINED, "dataset.path=words"),
    "job=predict model.path=runs/a/model input.file=rows.jsonl output.file=out.csv": (TRAINED,),
    'job=generate model=smollm2 input.prompt="What is the capital of France?"': (
        WRITER,
        "generation.max_new_tokens=2",
    ),
    "job=chat model=smollm2 generation.temperature=0.7": (WRITER,),
    "job=report runs=[runs/a,runs/b]": ("runs=[run,adapted]",),
    "job=inspect dataset.train=train.csv": (BERT,),
    "output_dir=runs/a ...": (BERT, *DATA, *ONE_STEP),
    "from=runs/a output_dir=runs/b": ("from=run",),
    "-m trainer.learning_rate=1e-4,3e-4": (BERT, *DATA, *ONE_STEP, "launch.num_processes=2"),
    "launch.num_processes=2 ...": (BERT, *DATA, *ONE_STEP),
    "launch.strategy=fsdp ...": (BERT, *DATA, *ONE_STEP),
    "...": (BERT, *DATA, *ONE_STEP),
    "--help": (),
}
"""The README's commands -> overrides that replace unavailable data and models."""
STARTING = ("-m trainer.learning_rate=1e-4,3e-4", "launch.num_processes=2 ...")
"""Commands that start processes themselves."""


def jsonl(path: str, rows: list[dict[str, object]]) -> None:
    file = Path(path)
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pairs(rows: list[dict[str, str]], name: str, first: str, second: str, labels: list) -> None:
    """A folder of rows with labels, in the splits that the data set has on the hub."""
    sets = ("validation_matched", "validation_mismatched") if name == "mnli" else ("validation",)
    table = [
        {first: row["text"], second: f"day {i}", "label": labels[i % len(labels)]}
        for i, row in enumerate(rows)
    ]
    for split in ("train", *sets):
        jsonl(f"{name}/{split}.jsonl", table)


def write_data() -> None:
    """Local stand-ins, with the columns that the experiments rename."""
    write_tables(Path.cwd())
    rows = sentences(24, seed=1)
    pairs(rows, "mnli", "premise", "hypothesis", labels=[0, 1, 2])
    pairs(rows, "mrpc", "sentence1", "sentence2", labels=[0, 1])
    pairs(rows, "stsb", "sentence1", "sentence2", labels=[0.5, 2.0, 4.25])
    pairs(rows, "sst2", "sentence", "idx", labels=[0, 1])
    pairs(rows, "words", "sentence", "idx", labels=["good", "bad"])
    cells = [f"{row['text']},day {i},{i % 6}\n" for i, row in enumerate(rows)]
    Path("stsb.csv").write_text("".join(cells))
    jsonl("gsm8k.jsonl", [{"question": r["text"], "answer": r["label"]} for r in rows])
    jsonl("prompts.jsonl", [{"prompt": "A day"}, {"prompt": "No day"}])
    lines = [f"{r['text']}\t{r['label']}" for r in rows]
    Path("train.tsv").write_text("\n".join(lines[:16]) + "\n")
    Path("dev.tsv").write_text("\n".join(lines[16:]) + "\n")
    table = "".join(f"{row['text']},{row['label']}\n" for row in rows * 5)
    Path("bad.csv").write_text(f"text,label\n{table}one cell\n")
    answer = {"role": "assistant", "content": "happy day"}
    asked = [{"role": "user", "content": row["text"]} for row in rows]
    jsonl("chats.jsonl", [{"messages": [question, answer]} for question in asked])
    jsonl("rows.jsonl", [{"text": row["text"]} for row in rows])
    for name in ("train", "dev"):
        cells = [f"{row['text']},{row['label']}\n" for row in rows]
        Path(f"{name}.csv").write_text("".join(["text,label\n", *cells]))
    flags = [f"{row['text']},{'rude|' * (i % 2)}{row['label']}\n" for i, row in enumerate(rows)]
    Path("toxic.csv").write_text("".join(["text,label\n", *flags]))
    Path("input.txt").write_text("".join(f"{row['text']}\n" for row in rows * 4))


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Path]:  # noqa: F811
    """A folder with small data, a tiny BERT, and finished runs: `run`, `adapted`, `writer`."""
    folder = tmp_path_factory.mktemp("yard")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TEMPERING_CACHE", str(folder / "cache"))
        Path("bert").symlink_to(tiny)
        write_data()
        assert launch.main([BERT, *DATA, *ONE_STEP, "output_dir=run"]) == 0
        lora = "model.lora.rank=2"
        assert launch.main([BERT, *DATA, lora, *ONE_STEP, "output_dir=adapted"]) == 0
        writer = (*SCRATCH, *LLAMA, "dataset=plain_text", "dataset.train=input.txt")
        assert launch.main([*writer, "recipe=causal_lm", *ONE_STEP, "output_dir=writer"]) == 0
        yield folder


CASES = {
    **{name: (f"experiment={name}", *ONE_STEP, *more) for name, more in EXPERIMENTS.items()},
    **JOBS,
}
LONG = ("quickstart", "stdlib_llama")
"""Experiments on the standard library are slow. The first is among OF_RECIPES, too; sweeps are in
tests/configs/test_running.py."""
LAUNCHED = ("evaluate", "predict a file")
"""Jobs that start two processes themselves; STARTING has the trainings."""


def test_every_shipped_experiment_and_job_is_among_them() -> None:
    shipped = {file.stem for file in (CONFIGS / "experiment").glob("*.yaml")}
    assert shipped == {*EXPERIMENTS, *OF_RECIPES}
    jobs = {file.stem for file in (CONFIGS / "job").glob("*.yaml")} - {
        "train",
        "chat",
        "serve",
        "push",
        "prepare",
        "prune",
    }
    typed = {argument.removeprefix("job=") for case in JOBS.values() for argument in case}
    assert jobs <= typed  # tests/jobs has files of their own for the others


@pytest.mark.parametrize("case", [case for case in CASES if case not in LONG])
def test_on_one_process(
    case: str, yard: Path, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(yard)
    assert launch.main([*CASES[case], f"output_dir=one/{case}"]) == 0


@pytest.mark.slow
def test_a_long_one_on_one_process(yard: Path) -> None:
    arguments = (*CASES["stdlib_llama"], "output_dir=one/stdlib_llama", "launch.num_processes=1")
    code, err = end_of(yard, *arguments)
    assert code == 0, err


@pytest.mark.slow
def test_experiments_of_recipes_train_one_after_the_other(
    yard: Path, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(yard)
    for name, more in OF_RECIPES.items():
        arguments = [f"experiment={name}", BERT, *ONE_STEP, *more]
        assert launch.main([*arguments, f"output_dir=recipes/{name}"]) == 0, name


@pytest.mark.slow
def test_on_two_processes(yard: Path) -> None:
    """Ranks as under torchrun, and for each job with several ranks also those of our launcher."""
    cases = {name: [*case, f"output_dir=two/{name}"] for name, case in CASES.items()}
    for number, (command, replacements) in enumerate(README.items()):
        if command not in STARTING:
            cases[f"README: {command}"] = replaced(command, replacements, f"two/readme-{number}")
    (yard / "cases.json").write_text(json.dumps(cases))
    program = str(Path(__file__).with_name("two_ranks.py"))
    done = started(yard, program, "cases.json", timeout=1800)  # may take minutes on a busy machine
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {name: [0, 0] for name in cases}, done.stderr[-5000:]
    for name in LAUNCHED:
        arguments = (*CASES[name], f"output_dir=launched/{name}", "launch.num_processes=2")
        code, err = end_of(yard, *arguments)
        assert code == 0, err
    for number, command in enumerate(STARTING):
        arguments = replaced(command, README[command], f"launched/readme-{number}")
        code, err = end_of(yard, *arguments)
        assert code == 0, err


def replaced(command: str, replacements: Sequence[str], output_dir: str) -> list[str]:
    """A command's arguments, in which replacements take the place of those with the same key."""
    typed = [each for each in shlex.split(command) if each != "..."]
    keys = {each.partition("=")[0] for each in replacements} | {"output_dir"}
    keys |= {"model"} if "model.path" in keys else set()
    kept = [each for each in typed if each.partition("=")[0] not in keys]
    output = [] if "--help" in kept else [f"output_dir={output_dir}"]
    return [*kept, *replacements, *output]


def end_of(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a command in the folder."""
    done = started(folder, str(Path(launch.__file__)), *arguments)
    return done.returncode, done.stderr


def started(folder: Path, *command: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(launch.__file__).parent)}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**environment, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_every_command_of_the_readme_is_among_them() -> None:
    assert documented_commands(["README.md"]) == list(README)


DOCUMENTS = ("*.md", "docs/**/*.md")
COMMAND = (
    r"^(?:[A-Z_]+=\S+ )*(?:(?:torchrun|srun|docker run)\b.*\s)?"
    r"(?:python launch\.py|launch\.py|python -m tempering|tempering"
    r"|sbatch docs/clusters/\S+|python docs/clusters/\S+\.py(?: \d+)?)(?: (.*))?$"
)
"""Our command, alone, behind a variable or a launcher, or a script that takes its arguments."""


def documented_commands(names: Sequence[str] = DOCUMENTS) -> list[str]:
    """The arguments of our command, from the lines that begin with it."""
    found = (re.search(COMMAND, line) for line in documented_lines(names))
    return list(dict.fromkeys(match[1] or "" for match in found if match))


def documented_lines(names: Sequence[str] = DOCUMENTS) -> list[str]:
    """The commands of all blocks of bash, without comments and what follows a pipe."""
    root = Path(launch.__file__).parent
    pages = [page for name in names for page in sorted(root.glob(name))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages).replace("\\\n", " ")
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```$", text, flags=re.S | re.M)
    lines = (line for block in blocks for line in block.splitlines())
    typed = (
        " ".join(re.sub(r"(^|\s+)[#>](\s.*|!.*|SBATCH.*|$)", "", line).split()) for line in lines
    )
    return [each for line in typed for each in line.split(" && ") if each]


def test_every_documented_line_with_settings_is_composed() -> None:
    """A line of ours that is written in another way would be left out of these tests."""
    ours = re.compile(r"launch\.py|^tempering\s|\s(trainer|recipe|dataset|output_dir)[.=]")
    candidates = [line for line in documented_lines() if ours.search(line)]
    assert [line for line in candidates if not re.search(COMMAND, line)] == []
    scripts = re.findall(r"^(?:python|bash) ([\w/.-]+)", "\n".join(documented_lines()), flags=re.M)
    root = Path(launch.__file__).parent
    assert [file for file in scripts if file[0] != "-" and not (root / file).exists()] == []


@pytest.mark.parametrize("command", documented_commands())
def test_documented_commands_are_accepted(command: str, alone: None) -> None:
    arguments = [
        argument
        for argument in shlex.split(command, comments=True)
        if argument != "..." and not argument.startswith("from=")
    ]
    examples = "examples/extending/configs"
    arguments = [
        str(Path(launch.__file__).parent / each) if each == examples else each for each in arguments
    ]
    if "from=" in command and "input." in command:
        arguments.append("model.path=x")
    elif "from=" in command:  # the run says what else a job needs
        arguments = [argument for argument in arguments if not argument.startswith("job=")]
    if "--help" not in arguments:
        command_read = parse([a.replace("=...", "=x") for a in arguments])
        try:
            prepared(command_read) if command_read.multirun else compose_run(command_read)
        except InputError as error:
            pytest.fail(f"{command}: {error}")
