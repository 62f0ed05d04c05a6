"""Runs our commands against the thresholds that transformers' example scripts are tested with.

    python benchmarks/example_thresholds.py FIXTURES      # tests/fixtures of transformers

Rows, steps, batch sizes and learning rates are those of examples/pytorch/test_pytorch_examples.py
in transformers' repository, which evaluates on its training rows. The models differ: transformers
uses BERT-base, DistilBERT, DistilGPT-2 and DistilRoBERTa; we use MiniLM and SmolLM2, which pip can
install. MiniLM has no head for masked language modeling, so a new head is trained for one epoch.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SHARED = ("trainer.precision=fp32", "trainer.global_batch_size=2", "trainer.warmup_steps=2")
CASES: dict[str, tuple[tuple[str, ...], str, str, float]] = {
    "run_glue (MRPC)": (
        ("model=minilm", "recipe.text=sentence1", "recipe.text_pair=sentence2",
         "dataset.train=train/tests_samples/MRPC/train.csv",
         "dataset.validation=dev/tests_samples/MRPC/dev.csv",
         "trainer.max_steps=10", "trainer.learning_rate=1e-4", *SHARED),
        "eval_accuracy", "at least", 0.75,
    ),
    "run_ner (conll)": (
        ("model=minilm", "recipe=token_classification", "metrics=entities",
         "recipe.text=words", "recipe.label=ner",
         "dataset.train=train/tests_samples/conll/sample.json",
         "dataset.validation=dev/tests_samples/conll/sample.json",
         "trainer.num_epochs=2", "trainer.learning_rate=2e-4", *SHARED),
        "eval_tag_accuracy", "at least", 0.75,
    ),
    "run_qa (SQuAD 2)": (
        ("model=minilm", "recipe=question_answering", "metrics=question_answering_no_answer",
         "recipe.no_answer=true", "recipe.max_length=384", "recipe.stride=128",
         "dataset.train=train/tests_samples/SQUAD/sample.json",
         "dataset.validation=dev/tests_samples/SQUAD/sample.json",
         "trainer.max_steps=10", "trainer.learning_rate=2e-4", *SHARED),
        "eval_f1", "at least", 28.0,
    ),
    "run_swag": (
        ("model=minilm", "recipe=multiple_choice", "metrics=accuracy", "recipe.text=sent1",
         "recipe.choices=[ending0,ending1,ending2,ending3]",
         "recipe.start=sent2", "dataset.train=train/tests_samples/swag/sample.json",
         "dataset.validation=dev/tests_samples/swag/sample.json",
         "trainer.max_steps=20", "trainer.learning_rate=2e-4", *SHARED),
        "eval_accuracy", "at least", 0.8,
    ),
    "run_clm": (
        ("model=smollm2", "recipe=causal_lm", "metrics=none", "recipe.max_length=128",
         "dataset=plain_text", "dataset.train=train/sample_text.txt",
         "dataset.validation=dev/sample_text.txt", "trainer.num_epochs=2",
         "trainer.learning_rate=5e-5", "trainer.precision=fp32", "trainer.global_batch_size=5"),
        "eval_perplexity", "below", 100.0,
    ),
    "run_mlm": (
        ("model=minilm", "recipe=masked_lm", "metrics=none", "recipe.max_length=512",
         "dataset=plain_text", "dataset.train=train/sample_text.txt",
         "dataset.validation=dev/sample_text.txt", "trainer.num_epochs=1",
         "trainer.learning_rate=5e-5", "trainer.precision=fp32", "trainer.global_batch_size=8"),
        "eval_perplexity", "below", 42.0,
    ),
}  # fmt: skip
"""Script -> our command, the metric, whether the threshold is a minimum or a limit, its value."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("fixtures", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("train", "dev"):  # two copies, since one file for both sets gives a warning
            shutil.copytree(given.fixtures, Path(folder, name))
        for name, (arguments, metric, relation, threshold) in CASES.items():
            found = [run(arguments, metric, Path(folder), seed) for seed in range(given.seeds)]
            shown = ", ".join(
                value if isinstance(value, str) else f"{value:.3f}" for value in found
            )
            print(f"{name}: {metric} {relation} {threshold}: {shown}", flush=True)


def run(arguments: tuple[str, ...], metric: str, folder: Path, seed: int) -> Any:
    """Train; returns the value of the metric, or the error's line."""
    output = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, str(Path(__file__).parent.parent / "launch.py"), *arguments]
    command += [f"seed={seed}", f"output_dir={output / 'run'}", "launch.num_processes=1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    return json.loads((output / "run" / "results.json").read_text())["metrics"][metric]


if __name__ == "__main__":
    main()
