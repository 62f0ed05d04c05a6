"""Reranking: losses by hand, rows and their refusals, and the model in transformers."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from recipes.reranking import OBJECTIVES, Reranking
from recipes.sequence_classification import SequenceClassification
from tests.unit.test_exactness import SIZES
from trainer.config.saved_recipe import recipe_of
from trainer.errors import InputError
from trainer.models.auto import AutoModelForSequenceClassification
from trainer.models.config import ModelConfig
from trainer.settings import TrainSettings
from trainer.tasks import ranking_losses as losses
from trainer.tokenizer import Tokenizer
from trainer.trainer import Trainer

SCORES = torch.tensor([0.3, -0.2, 1.0, 0.5, 0.1], dtype=torch.float64)
RELEVANCES = torch.tensor([2.0, 0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
OWNERS = torch.tensor([0, 0, 0, 1, 1])
"""A list of three and one of two, whose relevances are equal."""


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_pairwise_and_lambda_by_hand() -> None:
    s = SCORES.tolist()
    pairs = {(0, 1): s[1] - s[0], (0, 2): s[2] - s[0], (2, 1): s[1] - s[2]}
    sums, counts = losses.pairwise(SCORES, RELEVANCES, OWNERS)
    expected = sum(map(softplus, pairs.values())) / 3
    assert sums.tolist() == pytest.approx([expected, 0.0]) and counts.tolist() == [1, 0]
    gains, discounts = {0: 3, 1: 0, 2: 1}, {2: 1.0, 0: 1 / math.log2(3), 1: 0.5}
    best = 3 + 1 / math.log2(3)
    expected = sum(
        abs(gains[i] - gains[j]) * abs(discounts[i] - discounts[j]) / best * softplus(x)
        for (i, j), x in pairs.items()
    )
    sums, counts = losses.lambda_loss(SCORES, RELEVANCES, OWNERS)
    assert sums.tolist() == pytest.approx([expected, 0.0]) and counts.tolist() == [1, 0]


def test_listnet_and_margins_by_hand() -> None:
    sums, counts = losses.listnet(SCORES, RELEVANCES, OWNERS)
    expected = [
        -(RELEVANCES[i].softmax(0) * SCORES[i].log_softmax(0)).sum().item()
        for i in (slice(0, 3), slice(3, 5))
    ]
    assert sums.tolist() == pytest.approx(expected) and counts.tolist() == [1, 1]
    sums, counts = losses.margin_mse(SCORES, RELEVANCES, OWNERS)
    expected = [(0.5 - 2) ** 2 + (-0.7 - 1) ** 2, (0.4 - 0) ** 2]
    assert sums.tolist() == pytest.approx(expected) and counts.tolist() == [2, 1]


@pytest.fixture(scope="session")
def tokens(minilm: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(minilm)


ROWS = [
    {
        "text": f"query {n}",
        "text_pair": [f"good {n}", f"fair {n}", f"bad {n}"],
        "label": [1, 0.5, 0],
    }
    for n in range(6)
]


def trainer_of(tokens: Tokenizer, recipe: Reranking, rows: Any, **more: Any) -> Trainer:
    torch.manual_seed(0)
    sizes = {**SIZES, "model_type": "bert", "vocab_size": len(tokens), **recipe.head.config}
    model = AutoModelForSequenceClassification.from_config(ModelConfig(sizes))
    settings = TrainSettings(
        precision="fp32", global_batch_size=3, num_epochs=20, learning_rate=3e-3
    )
    return Trainer(model, recipe, settings, tokenizer=tokens, train_dataset=rows, **more)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns_an_order(tokens: Tokenizer, objective: str) -> None:
    recipe = Reranking(objective=objective, max_length=32)
    trainer = trainer_of(tokens, recipe, ROWS, eval_dataset=ROWS, metrics=["ndcg"])
    before = trainer.evaluate()
    after = trainer.fit()["metrics"]
    assert after["eval_ndcg_at_10"] > max(0.95, before["eval_ndcg_at_10"])
    if objective != "lambda":  # whose weights depend on the model's current order
        assert after["eval_loss"] < before["eval_loss"]
    lists = [
        {"text": "query 1", "text_pair": ["bad 1", "good 1"]},
        {**ROWS[0], "text_pair": "fair 0"},
    ]
    answers = trainer.answers(
        [{name: row[name] for name in ("text", "text_pair")} for row in lists]
    )
    assert answers[0]["scores"][1] > answers[0]["scores"][0] and 0 < answers[1]["score"] < 1


def test_the_model_gives_transformers_the_same_scores(tokens: Tokenizer, tmp_path: Path) -> None:
    trainer = trainer_of(tokens, Reranking(max_length=32), ROWS)
    trainer.save(tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    encode = transformers.AutoTokenizer.from_pretrained(tmp_path)
    pairs = [(row["text"], row["text_pair"][0]) for row in ROWS]
    with torch.no_grad():
        logits = theirs(
            **encode(*zip(*pairs, strict=True), padding=True, return_tensors="pt")
        ).logits
    answers = trainer.answers([{"text": a, "text_pair": b} for a, b in pairs])
    assert [each["score"] for each in answers] == pytest.approx(
        logits.squeeze(1).sigmoid().tolist(), abs=1e-6
    )


def test_a_cross_encoders_folder_names_the_task(tokens: Tokenizer, tmp_path: Path) -> None:
    """The files of CrossEncoders by sentence-transformers 6.2 and older versions."""
    trainer_of(tokens, Reranking(max_length=32), ROWS).save(tmp_path)
    (tmp_path / "recipe.json").unlink()
    kind = "sentence_transformers.base.modules.transformer.Transformer"
    modules = [{"idx": 0, "name": "0", "path": "", "type": kind}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    about = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(about))
    assert recipe_of(str(tmp_path)) == Reranking(activation="none")
    (tmp_path / "config_sentence_transformers.json").unlink()
    (tmp_path / "modules.json").unlink()
    assert isinstance(recipe_of(str(tmp_path)), SequenceClassification)
    config = json.loads((tmp_path / "config.json").read_text())
    older = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "sentence_transformers": older}))
    assert recipe_of(str(tmp_path)) == Reranking()


@pytest.mark.parametrize(
    ("options", "row", "expected"),
    [
        ({}, {"text_pair": "a", "label": 1.5}, "'label' is 1.5; accepted: 0 to 1 (recipe.score_ra"),
        ({}, {"text_pair": ["a", "b"], "label": [1]}, "'label' holds 1; accepted: 2, one for each"),
        ({}, {"text_pair": [], "label": []}, "'text_pair' is an empty list; accepted: one text"),
        (
            {},
            {"text_pair": ["a", "a"], "label": [1, 0]},
            "'text_pair' holds a text twice; accepted",
        ),
        ({}, {"text_pair": "a", "negative": []}, "'negative' is an empty list; accepted: one text"),
        (
            {"objective": "listnet"},
            {"text_pair": "a", "label": 1},
            "'text_pair' is a list of 1; accepted: 2 or more, to be compared",
        ),
        (
            {"objective": "lambda"},
            {"text_pair": ["a", "b"], "label": [-1, 0]},
            "'label' is -1; accepted: 0 or more with recipe.objective=lambda",
        ),
    ],
)
def test_rows_are_refused_in_one_line(
    tokens: Tokenizer, options: Mapping[str, Any], row: Mapping[str, Any], expected: str
) -> None:
    recipe = Reranking(max_length=32, **options)
    with pytest.raises(InputError) as error:
        trainer_of(tokens, recipe, [{"text": "q", **row}])
    assert str(error.value).startswith(f"dataset.train row 0: {expected}")
    assert "\n" not in str(error.value)
