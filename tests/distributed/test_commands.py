"""Every shipped experiment and every job, on one process and on two: none ends with exit code 1.

Models and data are small, the rest is as shipped. On two processes the tests are slow.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import launch
from tests.jobs.conftest import DATA, sentences, tiny, write_tables  # noqa: F401 (a fixture)
from trainer.errors import InputError
from trainer.launching.command import parse

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
    "quickstart": (BERT, *FEW),
    "sst2_distilbert": (BERT, "dataset.path=sst2"),
    "sst2_minilm_local": (
        BERT,
        "dataset.train=train.tsv",
        "dataset.validation=dev.tsv",
        "trainer.eval_steps=1",
    ),
    "stdlib_llama": (*LLAMA, *FEW, *SAMPLES, "tokenizer.vocab_size=300"),
    "stsb_bert": (BERT, "dataset.path=stsb", "dataset.name=null"),
    "tinyshakespeare": (*LLAMA, *SAMPLES, "dataset.train=input.txt", "tokenizer.vocab_size=300"),
}
"""Experiment -> what replaces the data and models that are not here."""

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
    "generate": ("job=generate", "model.path=writer/model", "input.prompt=A day",
        "generation.max_new_tokens=2"),
    "generate for a file": ("job=generate", "model.path=writer/model", "input.file=prompts.jsonl",
        "generation.max_new_tokens=2"),
}  # fmt: skip


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
    jsonl("gsm8k.jsonl", [{"question": r["text"], "answer": r["label"]} for r in rows])
    jsonl("prompts.jsonl", [{"prompt": "A day"}, {"prompt": "No day"}])
    lines = [f"{r['text']}\t{r['label']}" for r in rows]
    Path("train.tsv").write_text("\n".join(lines[:16]) + "\n")
    Path("dev.tsv").write_text("\n".join(lines[16:]) + "\n")
    table = "".join(f"{row['text']},{row['label']}\n" for row in rows * 5)
    Path("bad.csv").write_text(f"text,label\n{table}one cell\n")
    Path("input.txt").write_text("".join(f"{row['text']}\n" for row in rows * 4))


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Path]:  # noqa: F811
    """A folder with small data, a tiny BERT, and two finished runs: `run`, and `writer`."""
    folder = tmp_path_factory.mktemp("yard")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TEMPERING_CACHE", str(folder / "cache"))
        Path("bert").symlink_to(tiny)
        write_data()
        assert launch.main([BERT, *DATA, *ONE_STEP, "output_dir=run"]) == 0
        writer = (*SCRATCH, *LLAMA, "dataset=plain_text", "dataset.train=input.txt")
        assert launch.main([*writer, "recipe=causal_lm", *ONE_STEP, "output_dir=writer"]) == 0
        yield folder


CASES = {
    **{name: (f"experiment={name}", *ONE_STEP, *more) for name, more in EXPERIMENTS.items()},
    **JOBS,
}
LONG = ("quickstart", "stdlib_llama")
"""Those that read the standard library: slow. Sweeps are in tests/configs/test_running.py."""
LAUNCHED = ("sst2_minilm_local", "evaluate", "predict a file")


def test_every_shipped_experiment_and_job_is_among_them() -> None:
    shipped = {file.stem for file in (launch.CONFIGS / "experiment").glob("*.yaml")}
    assert shipped == set(EXPERIMENTS)
    jobs = {file.stem for file in (launch.CONFIGS / "job").glob("*.yaml")} - {"train", "chat"}
    typed = {argument.removeprefix("job=") for case in JOBS.values() for argument in case}
    assert jobs <= typed  # chat reads standard input: tests/jobs/test_generation_jobs.py


@pytest.mark.parametrize("case", [case for case in CASES if case not in LONG])
def test_on_one_process(
    case: str, yard: Path, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(yard)
    assert launch.main([*CASES[case], f"output_dir=one/{case}"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("case", LONG)
def test_long_ones_on_one_process(case: str, yard: Path) -> None:
    code, err = end_of(yard, *CASES[case], f"output_dir=one/{case}", "launch.num_processes=1")
    assert code == 0, err


@pytest.mark.slow
def test_on_two_processes(yard: Path) -> None:
    """Ranks as under torchrun, and for each job that takes several those of our own launcher."""
    cases = {name: [*case, f"output_dir=two/{name}"] for name, case in CASES.items()}
    (yard / "cases.json").write_text(json.dumps(cases))
    done = started(yard, str(Path(__file__).with_name("two_ranks.py")), "cases.json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {name: [0, 0] for name in cases}, done.stderr[-5000:]
    for name in LAUNCHED:
        arguments = (*CASES[name], f"output_dir=launched/{name}", "launch.num_processes=2")
        code, err = end_of(yard, *arguments)
        assert code == 0, err


def end_of(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a command in the folder."""
    done = started(folder, str(Path(launch.__file__)), *arguments)
    return done.returncode, done.stderr


def started(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(launch.__file__).parent)}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**environment, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def documented_commands() -> list[str]:
    root = Path(launch.__file__).parent
    pages = [root / "README.md", *sorted(root.glob("docs/*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages).replace("\\\n", " ")
    found = re.findall(r"^(?:python launch\.py|tempering) (.*)$", text, flags=re.M)
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("command", documented_commands())
def test_documented_commands_are_accepted(command: str, alone: None) -> None:
    arguments = [
        argument
        for argument in shlex.split(command, comments=True)
        if argument != "..." and not argument.startswith("from=")
    ]
    if "--help" not in arguments:
        command_read = parse([a.replace("=...", "=x") for a in arguments])
        for job in launch._jobs(command_read) if command_read.multirun else [command_read]:
            try:
                launch.compose_run(job)
            except InputError as error:
                pytest.fail(f"{command}: {error}")
