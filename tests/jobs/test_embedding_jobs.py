"""Sentence embeddings from the command line: trained, evaluated, written as vectors, searched."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Ask = Callable[..., Any]
TRAIN = ("recipe=sentence_embedding", "recipe.group_size=8", "recipe.max_length=32")
FAST = ("trainer.learning_rate=1e-3", "trainer.num_epochs=3", "trainer.global_batch_size=16")
WORDS = ["sun", "moon", "river", "stone", "apple", "train", "music", "letter", "winter", "bread"]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    pairs = [(a, b) for a in WORDS for b in WORDS if a < b]
    return [{"text": f"the {a} and a {b}", "text_pair": f"{a} {b}"} for a, b in pairs]


def write(path: str, rows: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_model_is_trained_evaluated_and_searched(
    ask: Ask, tiny: Path, rows: list[dict[str, str]]
) -> None:
    write("train.jsonl", rows[:32])
    write("dev.jsonl", rows[32:])
    data = ("dataset.train=train.jsonl", "dataset.validation=dev.jsonl", "metrics=retrieval")
    answer = ask(f"model.path={tiny}", *data, *TRAIN, *FAST, "output_dir=run")
    assert answer.code == 0, answer.err
    figures = json.loads(Path("run/results.json").read_text())["metrics"]
    assert {"eval_ndcg_at_10", "eval_recall_at_10", "eval_mrr_at_10", "eval_loss"} <= set(figures)
    model = "model.path=run/model"
    again = ask("job=evaluate", model, *data[1:], "output_dir=measured")
    assert again.code == 0, again.err
    found = json.loads(Path("measured/evaluation.json").read_text())["metrics"]
    assert found["eval_ndcg_at_10"] == pytest.approx(figures["eval_ndcg_at_10"], abs=1e-6)

    write("corpus.jsonl", [{"text": row["text_pair"], "id": n} for n, row in enumerate(rows)])
    for name in ("v.npy", "v.parquet", "v.jsonl"):
        ended = ask("job=predict", model, "input.file=corpus.jsonl", f"output.file={name}")
        assert ended.code == 0, ended.err
    vectors = np.load("v.npy", allow_pickle=False)
    lines = [json.loads(line) for line in Path("v.jsonl").read_text().splitlines()]
    assert vectors.shape == (45, 32) and vectors.dtype == np.float32
    assert np.array_equal(vectors, np.array([line["embedding"] for line in lines], np.float32))
    assert [line["id"] for line in lines] == list(range(45))

    asked = [f"input.text={json.dumps([rows[7]['text_pair'], rows[3]['text_pair']])}"]
    asked += ["input.neighbors=2", model, "job=predict"]
    stored = ask(*asked, "input.corpus=v.parquet")
    assert stored.code == 0, stored.err
    nearest = [json.loads(line)["neighbors"] for line in stored.out.splitlines()]
    assert [[len(each), each[0]["id"], each[0]["row"]] for each in nearest] == [
        [2, 7, 7],
        [2, 3, 3],
    ]
    assert nearest[0][0]["score"] == pytest.approx(1, abs=1e-2) and "embedding" not in nearest[0][0]
    computed = ask(*asked, "input.corpus=corpus.jsonl")
    assert [json.loads(line)["neighbors"][0]["id"] for line in computed.out.splitlines()] == [7, 3]

    write("other.jsonl", [{"title": "a"}])
    for arguments, line in (
        (
            ("input.corpus=other.jsonl",),
            "input.corpus: no column 'text' or 'embedding'; there are:",
        ),
        (("input.corpus=v.parquet", "input.neighbors=0"), "input.neighbors: found 0; accepted: 1"),
        (("input.corpus=v.parquet", "recipe.dimensions=8"), "input.corpus: vectors of 32 numbers;"),
    ):
        refusal = ask("job=predict", model, "input.text=a", *arguments)
        assert refusal.code == 2 and line in refusal.err, refusal.err
        assert len(refusal.err.strip().splitlines()) == 1


def test_what_gives_no_vectors_is_refused(trained: Path, ask: Ask) -> None:
    model = f"model.path={trained / 'model'}"
    refusal = ask("job=predict", model, "input.text=a", "input.corpus=dev.jsonl")
    assert refusal.code == 2
    assert "input.corpus: SequenceClassification gives no vectors to search by" in refusal.err
    refusal = ask("job=predict", model, "input.text=a", "output.file=v.npy")
    assert refusal.code == 2 and "output.file: .npy: the answers hold no 'embedding'" in refusal.err
    assert not Path("v.npy").exists()
