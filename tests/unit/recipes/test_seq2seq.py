"""Sequence to sequence: texts in order, label smoothing, refusals, metrics."""

import importlib.util
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from recipes.seq2seq import Seq2Seq
from trainer.data.written_dates import WrittenDates
from trainer.devices.ranks import Ranks
from trainer.errors import InputError
from trainer.metrics.bleu import Bleu, Chrf
from trainer.metrics.exact_texts import ExactTexts
from trainer.metrics.rouge import Rouge
from trainer.models.auto import AutoConfig, AutoModelForSeq2SeqLM
from trainer.settings import TrainSettings
from trainer.tokenizer import Tokenizer
from trainer.trainer import Trainer
from trainer.training.step import Stepper

ROWS = [dict(row) for row in WrittenDates(rows=40).load().train]
RECIPE = Seq2Seq(max_source_length=40, max_target_length=8)
KINDS = {
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2},
    "bart": {
        **{"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 24},
        **{"decoder_ffn_dim": 24, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
        **{"attention_dropout": 0.1, "activation_dropout": 0.1},
    },
}
"""With dropout in both."""


@cache
def tokenizer() -> Tokenizer:
    texts = [text for row in ROWS for text in (row["source"], row["target"])]
    return Tokenizer.train(texts, vocab_size=270, kind="bpe")


def model_of(kind: str = "t5") -> Any:
    torch.manual_seed(0)
    words = tokenizer()
    ids = {"pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id}
    ids |= {"decoder_start_token_id": words.pad_token_id}
    entries = {"model_type": kind, "vocab_size": len(words), **ids, **KINDS[kind]}
    return AutoModelForSeq2SeqLM.from_config(AutoConfig(entries)).double()


def trainer_of(model: Any, recipe: Seq2Seq = RECIPE, **given: Any) -> Trainer:
    values = {"global_batch_size": 8, "num_epochs": 2, "precision": "fp32", "learning_rate": 1e-2}
    settings = {**values, **given.pop("settings", {})}
    return Trainer(
        model,
        recipe,
        TrainSettings(**settings),  # type: ignore[arg-type]
        tokenizer=tokenizer(),
        train_dataset=ROWS[:20],
        **given,
    )


def weights(model: Any) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("kind", KINDS)
def test_any_split_gives_the_same_smoothed_gradient_and_loss(kind: str) -> None:
    """tests/unit/test_text_runs.py covers this without label smoothing, also with adapters."""
    samples = trainer_of(model_of(kind)).train_samples

    def step(parts: list[np.ndarray]) -> tuple[float, torch.Tensor]:
        model = model_of(kind).train()
        stepper = Stepper(
            model,
            RECIPE,
            torch.optim.SGD(model.parameters(), lr=1.0),
            ranks=Ranks(),
            global_batch_size=16,
            label_smoothing=0.1,
        )
        before = weights(model)
        batches = [(samples.collate(part).for_step(seed=7, step=3), True) for part in parts]
        return stepper.step(batches, len(batches), 1.0).loss, before - weights(model)

    loss, gradient = step([np.random.default_rng(3).permutation(16)])
    other_loss, other = step(np.array_split(np.arange(16), 5))
    assert abs(other_loss - loss) <= 1e-12 * abs(loss)
    assert (other - gradient).norm() <= 1e-12 * gradient.norm()


@pytest.mark.parametrize("num_beams", [1, 3])
def test_texts_are_written_in_the_callers_order_in_any_batch(num_beams: int) -> None:
    recipe = Seq2Seq(
        max_source_length=40, max_target_length=8, num_beams=num_beams, evaluate_texts=True
    )
    found = []
    for tokens in (60, 100_000):
        settings = {"max_tokens_per_micro_batch": tokens}
        model = model_of("bart")
        with torch.no_grad():  # a fresh model generates the same text for every source
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.5 * parameter.requires_grad)
        trainer = trainer_of(model, recipe, settings=settings)
        found.append(trainer.answers([{"source": row["source"]} for row in ROWS[:9]]))
    alone = [trainer.answers([{"source": row["source"]}])[0] for row in ROWS[:9]]
    assert found[0] == found[1] == alone and len({row["prediction"] for row in alone}) > 1


def test_an_evaluation_compares_the_written_texts() -> None:
    recipe = Seq2Seq(max_source_length=40, max_target_length=8, evaluate_texts=True)
    metrics = {"exact": ExactTexts(), "chrf": Chrf()}
    trainer = trainer_of(model_of(), recipe, eval_dataset=ROWS[20:30], metrics=metrics)
    found = trainer.evaluate(ROWS[20:30])
    assert {"loss", "perplexity", "exact_match", "chrf"} <= {
        name.removeprefix("eval_") for name in found
    }


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"source": " ", "target": "x"}, "'source' is empty; accepted: a text"),
        ({"source": "x", "target": ""}, "'target' is empty; accepted: a text"),
    ],
)
def test_empty_texts_are_refused(row: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=f"row 1: {said}"):
        Trainer(
            model_of(),
            RECIPE,
            TrainSettings(),
            tokenizer=tokenizer(),
            train_dataset=[ROWS[0], row],
        )


def test_long_texts_are_cut_and_keep_their_end() -> None:
    recipe = Seq2Seq(max_source_length=5, max_target_length=4)
    made = recipe.features({"source": ["January 1999"], "target": ["1999-01-31"]}, tokenizer())
    assert [len(ids) for ids in made["input_ids"][0]] == [5, 4]
    assert {ids[-1] for ids in made["input_ids"][0]} == {tokenizer().eos_token_id}
    assert made["num_truncated_tokens"][0] > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("13b", "metrics.tokenize: found '13b'; accepted: none, zh, 13a, intl, char, "),
        ("ja-mecab", "metrics.tokenize: 'ja-mecab': Japanese tokenization requires extra"),
    ],
)
def test_a_tokenization_is_loaded_before_the_run(name: str, message: str) -> None:
    pytest.importorskip("sacrebleu")
    if name == "ja-mecab" and importlib.util.find_spec("MeCab"):
        pytest.skip("MeCab is installed")
    with pytest.raises(InputError, match=message):
        Bleu(tokenize=name).prepare()


def test_metrics_are_those_of_sacrebleu_and_rouge_score() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    rouge = pytest.importorskip("rouge_score.rouge_scorer")
    written = ["the cat sat on the mat", "a dog barks loudly"]
    wanted = ["the cat sat on a mat", "the dog barks"]
    assert Bleu().compute(written, wanted)["bleu"] == sacrebleu.corpus_bleu(written, [wanted]).score
    assert Chrf().compute(written, wanted)["chrf"] == sacrebleu.corpus_chrf(written, [wanted]).score
    several = [["the cat sat on a mat", "the cat sat on the mat"], ["the dog barks"]]
    streams = [[each[0] for each in several], [several[0][1], None]]
    assert Bleu().compute(written, several)["bleu"] == sacrebleu.corpus_bleu(written, streams).score
    scorer = rouge.RougeScorer(["rougeL"])
    mean = (
        sum(scorer.score(b, a)["rougeL"].fmeasure for a, b in zip(written, wanted, strict=True)) / 2
    )
    assert Rouge().compute(written, wanted)["rougel"] == pytest.approx(mean)
    for metric in (Bleu(), Chrf(), Rouge()):
        nothing = metric.compute([], [])
        assert set(nothing) == set(metric.names()) and all(map(math.isnan, nothing.values()))
