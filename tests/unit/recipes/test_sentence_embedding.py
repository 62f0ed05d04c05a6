"""Sentence embeddings: rows, refusals, retrieval, and the folders of sentence-transformers."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.sentence_embedding import SentenceEmbedding
from tests.unit.test_exactness import SIZES
from trainer.config.saved_recipe import recipe_of
from trainer.data.text_groups import TextPrompts
from trainer.errors import InputError
from trainer.interop.sentence_transformers import read_modules
from trainer.models.auto import AutoModelForSentenceEmbedding
from trainer.models.config import ModelConfig
from trainer.pipelines.of_recipe import Pipeline
from trainer.settings import TrainSettings
from trainer.tasks.columns import Column
from trainer.tasks.retrieval import retrieval
from trainer.tokenizer import Tokenizer
from trainer.trainer import Trainer

FIXTURES = Path(__file__).with_name("fixtures") / "sentence_transformers.json"
ROWS = [
    {"text": f"question {n}", "text_pair": f"answer number {n}", "negative": [f"wrong {n}", "no"]}
    for n in range(6)
]
SETTINGS = TrainSettings(precision="fp32", global_batch_size=4, num_epochs=1)


@pytest.fixture(scope="session")
def tokens(minilm: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(minilm)


def tiny(tokens: Tokenizer, **entries: Any) -> AutoModelForSentenceEmbedding:
    torch.manual_seed(0)
    sizes = {**SIZES, "model_type": "bert", "vocab_size": len(tokens)}
    sizes |= {"max_position_embeddings": 256, **entries}
    return AutoModelForSentenceEmbedding.from_config(ModelConfig(sizes))


def fitted(tokens: Tokenizer, recipe: SentenceEmbedding, rows: Sequence[Any], **more: Any) -> Any:
    trainer = Trainer(tiny(tokens), recipe, SETTINGS, tokenizer=tokens, train_dataset=rows, **more)
    return trainer.fit()


def test_texts_become_sequences_with_roles_and_prompts(tokens: Tokenizer) -> None:
    recipe = SentenceEmbedding(prompts={"query": "query: ", "document": "passage: "})
    columns = {name: [row[name] for row in ROWS[:2]] for name in ROWS[0]}
    found = recipe.features(columns, tokens)
    assert found["roles"] == [[0, 1, 2, 2]] * 2
    texts = [tokens.decode(ids, skip_special_tokens=True) for ids in found["input_ids"][1]]
    assert texts == ["query : question 1", "passage : answer number 1", "passage : wrong 1",
                     "passage : no"]  # fmt: skip
    numbers = found["texts"]
    assert numbers[0][3] == numbers[1][3] and len({n for row in numbers for n in row}) == 7
    alone = recipe.features({"text": columns["text"]}, tokens)
    assert [len(sample) for sample in alone["input_ids"]] == [1, 1]
    assert tokens.decode(alone["input_ids"][0][0], skip_special_tokens=True) == "question 0"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"group_size": 1}, "recipe.group_size: found 1; accepted: 2 or more, since"),
        ({"objective": "triplet", "group_size": 4}, "recipe.group_size: found 4; accepted: 1 with"),
        ({"objective": "contrast"}, "recipe.objective: found 'contrast'; accepted: in_batch,"),
        ({"temperature": 0.0}, "recipe.temperature: found 0.0; accepted: above 0"),
        ({"score_range": [5.0, 0.0]}, "recipe.score_range: found [5.0, 0.0]; accepted: [minimum,"),
        ({"matryoshka": [8, 8]}, "recipe.matryoshka: found [8, 8]; accepted: different sizes"),
        (
            {"matryoshka": [8], "matryoshka_weights": [1.0, 2.0]},
            "recipe.matryoshka_weights: found [1.0, 2.0]; accepted: 1 weights, one for each",
        ),
        ({"texts_per_pass": -1}, "recipe.texts_per_pass: found -1; accepted: 0 or more"),
        ({"prompt": "query"}, "recipe.prompt: found 'query'; recipe.prompts has: none"),
    ],
)
def test_settings_are_refused_in_one_line(options: Mapping[str, Any], expected: str) -> None:
    with pytest.raises(InputError) as error:
        SentenceEmbedding(**options)
    assert str(error.value).startswith(expected) and "\n" not in str(error.value)


SCORES = {"objective": "cosent", "score_range": [0.0, 5.0]}


@pytest.mark.parametrize(
    ("options", "rows", "expected"),
    [
        (
            {},
            ROWS[:1],
            "dataset.train: found 1 row; accepted: 2 or more, since the loss compares rows",
        ),
        (
            {},
            [*ROWS, ROWS[2]],
            "dataset.train row 6: the same 'text' and 'text_pair' as in row 2; accepted: each once",
        ),
        (
            {},
            [*ROWS[:3], {**ROWS[3], "negative": []}],
            "dataset.train row 3: 'negative' is an empty list; accepted: one text or more",
        ),
        (
            {},
            [*ROWS[:3], {**ROWS[3], "negative": ["answer number 3"]}],
            "dataset.train row 3: 'negative' holds the text of 'text_pair'; accepted: others",
        ),
        (
            SCORES,
            [{"text": "a", "text_pair": f"b {n}", "label": n} for n in range(7)],
            "dataset.train row 6: 'label' is 6; accepted: 0 to 5 (recipe.score_range)",
        ),
        (
            SCORES,
            [{"text": "a", "text_pair": f"b {n}", "label": "high"} for n in range(3)],
            "dataset.train row 0: 'label' is 'high'; accepted: 0 to 5 (recipe.score_range)",
        ),
        (
            {},
            [{"text": "a"}, {"text": "b"}],
            "dataset.train: recipe.objective=in_batch needs the column 'text_pair'; there are:",
        ),
        (
            {"objective": "triplet", "group_size": 1},
            [{"text": "a", "text_pair": "b"}] * 2,
            "dataset.train: recipe.objective=triplet needs the column 'negative'; there are:",
        ),
        (
            {"compare": "scores"},
            [{"text": "a", "text_pair": f"b {n}", "label": 1} for n in range(3)],
            "recipe.label: training rows have scores ('label'), which in_batch ignores; accepted:",
        ),
        (
            {"matryoshka": [25]},
            ROWS,
            "recipe.matryoshka: found 25; accepted: at most 24",
        ),
    ],
)
def test_rows_are_refused_in_one_line(
    tokens: Tokenizer, options: Mapping[str, Any], rows: Any, expected: str
) -> None:
    with pytest.raises(InputError) as error:
        fitted(tokens, SentenceEmbedding(**{"group_size": 4, **options}), rows)
    assert str(error.value).startswith(expected) and "\n" not in str(error.value)


@pytest.mark.parametrize("objective", ["in_batch", "triplet", "cosine", "cosent"])
def test_every_objective_lowers_its_loss_and_is_evaluated(
    tokens: Tokenizer, objective: str
) -> None:
    scored = objective in ("cosine", "cosent")
    rows = [{**row, "label": n / 5} for n, row in enumerate(ROWS)] if scored else ROWS
    trainer = Trainer(
        tiny(tokens, hidden_dropout_prob=0.0),
        SentenceEmbedding(
            objective=objective, group_size=2 * (objective in ("in_batch", "cosent"))
        ),
        TrainSettings(precision="fp32", global_batch_size=6, num_epochs=15, learning_rate=3e-3),
        tokenizer=tokens,
        train_dataset=rows,
        eval_dataset=rows,
        metrics=["spearman"] if scored else ["ndcg", "mrr"],
    )
    before = trainer.evaluate()
    after = trainer.fit()["metrics"]
    assert after["eval_loss"] < 0.9 * before["eval_loss"]
    assert set(after) == set(before)
    texts = [{"text": f"question {n}", "label": 0.5} for n in (1, 2)]  # the score of no pair
    answers = trainer.answers(texts)
    assert [list(answer) for answer in answers] == [["embedding"]] * 2
    assert np.linalg.norm(answers[0]["embedding"]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"objective": "cosent"}, {"matryoshka": [24, 8]}])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_texts_in_several_passes_give_the_gradient_of_one(
    tokens: Tokenizer, options: dict[str, Any], size: int
) -> None:
    """To 1e-12 in float64, with dropout, also for micro batches of several groups."""
    scored = options.get("objective") == "cosent"
    rows = [{**row, "label": n / 5} for n, row in enumerate(ROWS)] if scored else ROWS
    sgd = TrainSettings(
        precision="fp32",
        global_batch_size=6,
        num_epochs=1,
        optimizer="sgd",
        learning_rate=1.0,
        max_grad_norm=0.0,
    )
    found = []
    for texts in (0, size):
        recipe = SentenceEmbedding(group_size=3, texts_per_pass=texts, **options)
        model = tiny(tokens, hidden_dropout_prob=0.2).double()
        before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        passes: list[int] = []
        model.register_forward_pre_hook(
            lambda _, __, given, kept=passes: kept.append(len(given["sequence_lengths"].on_host)),
            with_kwargs=True,
        )
        Trainer(model, recipe, sgd, tokenizer=tokens, train_dataset=rows).fit()
        after = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
        found.append((before - after, passes))
    whole, cached = found[0][0], found[1][0]
    assert (cached - whole).norm() <= 1e-12 * whole.norm() and whole.norm() > 1e-3
    texts = sum(found[0][1])
    assert found[0][1] == [texts]
    assert sum(found[1][1]) == (texts if size == 100 else 2 * texts)
    assert max(found[1][1]) == min(size, texts)


def test_retrieval_ranks_all_texts_for_every_distinct_query() -> None:
    """Two samples share a query, two a positive; a text that equals the query ranks last."""
    vectors = np.eye(4)[[0, 0, 3, 0, 1, 1, 1]] + 0.01 * np.arange(28).reshape(7, 4)
    offsets = np.array([0, 3, 5, 7])  # (q0, p1, n2), (q0, p3), (q4, p1)
    texts = np.array([10, 11, 12, 10, 13, 12, 11])
    found = retrieval(Column(vectors, offsets), Column(texts, offsets))
    assert found is not None and found.kind == "rankings"
    assert [list(row) for row in found.references] == [[1, 0, 1], [1, 0, 0]]  # of 11, 12, 13
    assert np.isneginf(found.predictions[1]).tolist() == [False, True, False]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert found.predictions[0] == pytest.approx(unit[[1, 2, 4]] @ unit[0])
    assert (
        retrieval(Column(vectors[:1], np.array([0, 1])), Column(texts[:1], np.array([0, 1])))
        is None
    )


@pytest.mark.parametrize("pooling", ["mean", "first", "last", "weighted"])
def test_a_padded_call_pools_as_a_flat_one(tokens: Tokenizer, pooling: str) -> None:
    model = tiny(tokens, embedding_pooling=pooling, embedding_normalize=False).double().eval()
    ids = torch.tensor([[5, 6, 7, 0, 0], [8, 9, 10, 11, 12], [13, 0, 0, 0, 0]])
    lengths = torch.tensor([3, 5, 1])
    mask = torch.arange(5) < lengths[:, None]
    padded = model(ids, attention_mask=mask.long())
    flat = model(ids[mask], sequence_lengths=lengths)
    torch.testing.assert_close(padded.embeddings, flat.embeddings, rtol=1e-12, atol=1e-13)
    bare = model(ids[:1, :3], output_hidden_states=True).hidden_states[-1][0]
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)[:, None]
    expected = {
        "mean": bare.mean(0),
        "first": bare[0],
        "last": bare[2],
        "weighted": (bare * weights).sum(0) / 6,
    }[pooling]
    torch.testing.assert_close(flat.embeddings[0], expected, rtol=1e-10, atol=1e-12)


def test_vectors_are_those_of_sentence_transformers(minilm: Path, tmp_path: Path) -> None:
    """Recorded by tests/unit/recipes/fixtures/record_sentence_transformers.py with version 6.2."""
    recorded = json.loads(FIXTURES.read_text())
    for case in recorded["cases"]:
        folder = tmp_path / case["pooling"]
        shutil.copytree(minilm, folder)
        for name, content in case["files"].items():
            (folder / name).write_text(json.dumps(content))
        recipe = recipe_of(str(folder))
        assert isinstance(recipe, SentenceEmbedding)
        assert (recipe.pooling, recipe.normalize) == (case["ours"], case["normalize"])
        model = AutoModelForSentenceEmbedding.from_pretrained(folder, **recipe.head.config)
        model.double()  # in fp32 each entry would depend on this CPU's kernels, too
        pipeline = Pipeline(model, recipe, Tokenizer.from_pretrained(folder), SETTINGS)
        answers = pipeline.answers([{"text": text} for text in recorded["texts"]])
        found = np.array([answer["embedding"] for answer in answers])[:, :: recorded["every"]]
        expected = np.array(case["vectors"])
        assert np.abs(found - expected).max() <= 1e-6 * max(1, np.abs(expected).max())


def test_the_written_folder_says_the_same_to_both(tokens: Tokenizer, tmp_path: Path) -> None:
    recipe = SentenceEmbedding(
        pooling="weighted", normalize=False, max_length=17, prompts={"query": "q: "}, group_size=2
    )
    trainer = Trainer(tiny(tokens, embedding_pooling="weighted", embedding_normalize=False), recipe,
                      SETTINGS, tokenizer=tokens)  # fmt: skip
    trainer.save(tmp_path)
    assert read_modules(tmp_path) == {
        "pooling": "weighted",
        "normalize": False,
        "max_length": 17,
        "prompts": {"query": "q: "},
        "prompt": None,
    }
    (tmp_path / "recipe.json").unlink()
    read = recipe_of(str(tmp_path))
    assert isinstance(read, SentenceEmbedding) and read.max_length == 17
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertModel"]


def test_an_empty_prompt_replaces_the_default(minilm: Path, tmp_path: Path) -> None:
    """As in sentence-transformers, in which every name in prompts wins over the default."""
    shutil.copytree(minilm, tmp_path / "model")
    prompts = {"query": "", "document": "passage: "}
    about = tmp_path / "model" / "config_sentence_transformers.json"
    for default, query in (("document", ""), (None, "")):
        about.write_text(json.dumps({"prompts": prompts, "default_prompt_name": default}))
        found = read_modules(tmp_path / "model")
        recipe = recipe_of(str(tmp_path / "model"))
        assert isinstance(recipe, SentenceEmbedding) and recipe.prompt == default
        before = TextPrompts(found["prompts"], found["prompt"], retrieves=True).before
        assert before(["a", "b"]) == [f"{query}a", "passage: b"]
    about.write_text(json.dumps({"prompts": {"query": "", "document": ""}}))
    assert read_modules(tmp_path / "model")["prompts"] == {}


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("modules.json", {}, "found dict; accepted: a list"),
        ("modules.json", [{"type": "a.Dense", "path": ""}], "found Dense; accepted: Transformer"),
        ("1_Pooling/config.json", {"pooling_mode": "max"}, "found the pooling max; accepted: one"),
        ("1_Pooling/config.json", {"pooling_mode": [1]}, "found the pooling 1; accepted: one"),
        ("1_Pooling/config.json", {"pooling_mode": {"a": 1}}, "found the pooling {'a': 1}; accep"),
        (
            "config_sentence_transformers.json",
            {"prompts": {"query": "q: "}, "default_prompt_name": "document"},
            "default_prompt_name: found 'document'; accepted: null, or a name in prompts",
        ),
        (
            "1_Pooling/config.json",
            {"pooling_mode": "mean", "include_prompt": False},
            "include_prompt: found false; accepted: true",
        ),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case: found true"),
    ],
)
def test_what_is_not_built_is_refused_by_name(
    minilm: Path, tmp_path: Path, file: str, content: Any, expected: str
) -> None:
    shutil.copytree(minilm, tmp_path / "model")
    (tmp_path / "model" / file).write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        recipe_of(str(tmp_path / "model"))
    assert expected in str(error.value) and str(file) in str(error.value)
