"""Pipelines that answer by a recipe: multiple choice, similarity and ranking."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trainer
from recipes.multi_task import MultiTask
from recipes.multiple_choice import MultipleChoice
from recipes.question_answering import QuestionAnswering
from recipes.reranking import Reranking
from recipes.sentence_embedding import SentenceEmbedding
from recipes.sequence_classification import SequenceClassification
from recipes.token_classification import TokenClassification
from tests.unit.text_runs import BERT, CLASSES, TAGS, wordpiece
from trainer import Trainer
from trainer.errors import InputError
from trainer.models.config import ModelConfig
from trainer.models.of_task import model_class


def saved(folder: Path, recipe: Any) -> str:
    """The folder of a small model with a recipe's head."""
    torch.manual_seed(3)
    entries = {"vocab_size": len(wordpiece()), "initializer_range": 0.3, **BERT}
    kind: Any = model_class(recipe.head.task)
    model = kind.from_config(ModelConfig({**entries, **recipe.head.config}))
    Trainer(model, recipe, {"precision": "fp32"}, tokenizer=wordpiece()).save(folder)
    return str(folder)


def test_similarity(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", SentenceEmbedding())
    similar = trainer.pipeline("sentence-similarity", folder)
    asked = {"source_sentence": "two and two", "sentences": ["two and two", "hello world"]}
    found = similar(asked)
    assert found[0] == pytest.approx(1) and abs(found[1]) < 0.999
    # in float64, since fp32 values may depend on the other texts of a batch
    exact = trainer.pipeline("sentence-similarity", folder, dtype="float64")
    wanted = pytest.approx(exact(asked), abs=1e-12)
    assert exact(**asked) == wanted and exact([asked, asked]) == [wanted, wanted]
    sentence_transformers = pytest.importorskip("sentence_transformers")
    theirs = sentence_transformers.SentenceTransformer(folder, device="cpu")
    vectors = theirs.encode(["two and two", *asked["sentences"]], convert_to_tensor=True)
    expected = torch.cosine_similarity(vectors[:1], vectors[1:]).tolist()
    assert found == pytest.approx(expected, abs=1e-5)
    for wrong in ("two", 5, [5]):
        with pytest.raises(InputError, match="no source with sentences"):
            similar(wrong)


def test_ranking(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", Reranking())
    rank = trainer.pipeline(model=folder)
    asked = {"query": "two", "documents": ["hello world", "two and two", "why"]}
    found = rank(asked, return_documents=True)
    assert [each["text"] for each in found] == [
        asked["documents"][each["corpus_id"]] for each in found
    ]
    scores = [each["score"] for each in found]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 3
    assert rank(**asked, top_k=1) == [{"corpus_id": found[0]["corpus_id"], "score": scores[0]}]
    sentence_transformers = pytest.importorskip("sentence_transformers")
    theirs = sentence_transformers.CrossEncoder(folder, device="cpu")
    for mine, other in zip(found, theirs.rank(asked["query"], asked["documents"]), strict=True):
        assert mine["corpus_id"] == other["corpus_id"]
        assert mine["score"] == pytest.approx(float(other["score"]), abs=1e-5)
    for wrong in ([{"query": "two"}], 5):
        with pytest.raises(InputError, match="no query with documents"):
            rank(wrong)
    pairs = trainer.pipeline("text-classification", folder)
    assert pairs({"text": "two", "text_pair": "why"})["score"]
    with pytest.raises(InputError, match="found an input without 'text_pair'"):
        pairs({"text": "two"})


def test_multiple_choice(tmp_path: Path) -> None:
    choose = trainer.pipeline(model=saved(tmp_path / "model", MultipleChoice()))
    row = {"text": "what is two?", "choices": ["two", "hello world"]}
    found = choose(row)
    assert found["choice_text"] == row["choices"][found["choice"]]
    assert sum(found["choice_probabilities"]) == pytest.approx(1)
    assert [each["choice"] for each in choose([row, row])] == [found["choice"]] * 2
    for wrong in ("two", 5, [row, 5]):
        with pytest.raises(InputError, match="accepted: a row {text, choices}, or a list of rows"):
            choose(wrong)
    with pytest.raises(InputError, match="found the option 'top_k'"):
        trainer.pipeline("multiple-choice", str(tmp_path / "model"), top_k=2)


def test_loaded_models(tmp_path: Path) -> None:
    """They have the recipe's defaults, where answers depend on no other setting."""
    asked = {"question": "what is two?", "context": "hello world of two and two"}
    tags = TokenClassification(**{**TAGS, "text": "text"}, crf=True)
    tasks: dict[str, tuple[Any, Any]] = {
        "question-answering": (QuestionAnswering(no_answer=True, max_length=64, stride=8), asked),
        "multiple-choice": (MultipleChoice(), {"text": "two?", "choices": ["two", "hello"]}),
        "token-classification": (tags, "hello world of two"),
    }
    for task, (recipe, row) in tasks.items():
        folder = saved(tmp_path / task, recipe)
        loaded = model_class(recipe.head.task).from_pretrained(folder)
        expected = trainer.pipeline(task, folder)(row)
        assert expected
        assert trainer.pipeline(task, model=loaded, tokenizer=wordpiece())(row) == expected
        assert trainer.pipeline(model=loaded, tokenizer=wordpiece())(row) == expected
        with pytest.raises(
            InputError, match=f"^pipeline: [A-Z]\\w+ is made for {recipe.head.task}"
        ):
            trainer.pipeline("fill-mask", model=loaded, tokenizer=wordpiece())
    embedding: Any = model_class("sentence_embedding").from_config(
        ModelConfig({"vocab_size": len(wordpiece()), **BERT})
    )
    with pytest.raises(InputError, match="found a model; accepted: its folder, which has"):
        trainer.pipeline("sentence-similarity", model=embedding, tokenizer=wordpiece())
    for task in ("question-answering", "multiple-choice"):
        with pytest.raises(InputError, match="found a model; accepted: its folder, which has"):
            trainer.pipeline(task, model=torch.nn.Linear(2, 2), tokenizer=wordpiece())


def test_counts_of_question_answering_and_ranking(tmp_path: Path) -> None:
    answer = trainer.pipeline("question-answering", saved(tmp_path / "qa", QuestionAnswering()))
    asked = {"question": "what is two?", "context": "hello world of two and two"}
    few = {"top_k": np.int64(1), "max_answer_len": np.int64(15), "max_seq_len": np.int64(64)}
    assert answer(asked, **few, doc_stride=np.int64(8)) == answer(
        asked, top_k=1, max_answer_len=15, max_seq_len=64, doc_stride=8
    )
    for given in ({"question": 5, "context": "two"}, {"question": "two", "context": 5}):
        with pytest.raises(InputError, match="accepted: question= and context="):
            answer(**given)
    for name in ("top_k", "max_answer_len", "max_seq_len", "doc_stride"):
        for wrong in (-1, True, "1"):
            with pytest.raises(InputError, match=f"^pipeline: {name}: found {wrong!r}; accepted: "):
                answer(asked, **{name: wrong})
    rank = trainer.pipeline(model=saved(tmp_path / "ranks", Reranking()))
    with pytest.raises(InputError, match="^pipeline: top_k: found '1'; accepted: 0 or more"):
        rank(query="two", documents=["two"], top_k="1")


def test_several_tasks(tmp_path: Path) -> None:
    kinds = {"kind": SequenceClassification(**CLASSES), "tags": TokenClassification(**TAGS)}
    ask = trainer.pipeline(model=saved(tmp_path / "model", MultiTask(tasks=kinds)))
    found = ask("hello world", task="kind")
    assert found["task"] == "kind" and found["label"] in CLASSES["labels"]
    rows = [{"text": "hello world"}, {"task": "tags", "tokens": ["hello", "world"]}]
    several = ask(rows, task="kind")
    assert several[0]["probabilities"] == pytest.approx(found["probabilities"], abs=1e-5)
    assert several[1]["tags"] and several[1]["task"] == "tags"
    for wrong in ({"task": "kin"}, {}):
        with pytest.raises(InputError, match="^pipeline: task: found .*; accepted: kind, tags"):
            ask("hello world", **wrong)


def test_a_tagger_with_a_crf(tmp_path: Path) -> None:
    recipe = TokenClassification(**{**TAGS, "text": "text"}, crf=True)
    folder = saved(tmp_path / "model", recipe)
    texts = ["hello world of two", "why"]
    found = trainer.pipeline("ner", folder, aggregation_strategy="simple")(texts)
    assert found == trainer.pipeline(model=folder)(texts)
    assert found == trainer.pipeline(model=folder)(texts, aggregation_strategy="max")
    assert trainer.pipeline(model=folder)(texts[0]) == trainer.pipeline(model=folder)(texts[:1])[0]
    # in float64, since fp32 scores may depend on the other texts of a batch
    exact = trainer.pipeline(model=folder, dtype="float64")
    wanted = [
        {**each, "score": pytest.approx(each["score"], abs=1e-12)} for each in exact(texts)[0]
    ]
    assert exact(texts[0]) == wanted
    assert [{**each, "score": None} for each in found[0]] == [
        {**each, "score": None} for each in wanted
    ]
    assert any(found) and all(
        texts[row][each["start"] : each["end"]] == each["word"] and each["entity_group"] == "x"
        for row, entities in enumerate(found)
        for each in entities
    )
    with pytest.raises(InputError, match="^pipeline: found 3; accepted: a text, or a list"):
        trainer.pipeline(model=folder)(3)


def test_replaced_tokens(tmp_path: Path) -> None:
    torch.manual_seed(3)
    entries = {**BERT, "model_type": "electra", "vocab_size": len(wordpiece())}
    entries |= {"embedding_size": 16, "initializer_range": 0.3}
    model: Any = model_class("replaced_token_detection").from_config(ModelConfig(entries))
    model.save_pretrained(tmp_path)
    wordpiece().save_pretrained(tmp_path)
    detect = trainer.pipeline("replaced-token-detection", str(tmp_path))
    found = detect("hello world")
    ids = torch.tensor([wordpiece()("hello world")["input_ids"]])
    scores = model.eval()(ids).logits.sigmoid()[0, 1:-1].tolist()
    assert [each["score"] for each in found] == pytest.approx(scores, abs=1e-6)
    assert [each["replaced"] for each in found] == [score > 0.5 for score in scores]
    texts = ["hello world"[each["start"] : each["end"]] for each in found]
    assert texts == [each["word"].removeprefix("##") for each in found]
    loaded = trainer.pipeline(model=model, tokenizer=wordpiece())
    assert loaded(["hello world"]) == [found]
