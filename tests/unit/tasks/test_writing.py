"""WritingRecipe: evaluations generate answers, independent of the batch, for metrics."""

import dataclasses
from typing import Any

import pytest

from recipes.causal_lm import CausalLM
from recipes.instruction import Instruction
from tests.unit.text_runs import LLAMA, PAIRS, TEXTS, Case
from trainer.errors import InputError
from trainer.generation.settings import GenerationSettings
from trainer.generation.text import generate
from trainer.metrics.checked_texts import PassRate
from trainer.metrics.exact_texts import ExactTexts
from trainer.metrics.rouge import Rouge
from trainer.runs.context import DataOptions, RunContext
from trainer.settings import TrainSettings
from trainer.trainer import Trainer

PROMPTS = [
    {"prompt": row["prompt"], "completion": row["chosen"], "kind": n % 2}
    for n, row in enumerate(PAIRS)
]
WRITES = Instruction(max_length=96, evaluate_texts=True, max_new_tokens=6, slices="kind")
METRICS = (ExactTexts(), Rouge(), PassRate(lambda text, wanted: len(text) < len(wanted)))


def trainer_of(recipe: Any, rows: Any, **settings: Any) -> Any:
    found = Case(recipe, rows, LLAMA).trainer(evaluated=False, **settings)
    found.setup.metrics.update({metric.names()[0]: metric for metric in METRICS})
    return found


def test_the_last_answer_of_each_chat_is_written_after_all_that_is_before_it() -> None:
    trainer = trainer_of(WRITES, PROMPTS)
    answers = trainer.answers(PROMPTS)
    model, tokenizer = trainer.model.eval(), trainer.tokenizer
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}],
            tokenize=False,
            add_generation_prompt=True,
        )
        for row in PROMPTS
    ]
    ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    wanted = generate(model, tokenizer, ids, GenerationSettings(max_new_tokens=6))
    assert [answer["prediction"].strip() for answer in answers] == [text.strip() for text in wanted]
    assert [answer["reference"] for answer in answers] == [row["completion"] for row in PROMPTS]


def test_texts_and_their_metrics_do_not_depend_on_batches() -> None:
    found = [
        trainer_of(WRITES, PROMPTS, max_tokens_per_micro_batch=tokens).evaluate(PROMPTS)
        for tokens in (40, 1000)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    names = {"exact_match", "rouge1", "pass_rate", "loss", "perplexity"}
    assert {f"eval_{each}" for each in names} <= found[0].keys()
    for name in ("loss", "pass_rate", "samples"):
        assert {f"eval_0_{name}", f"eval_1_{name}"} <= found[0].keys()
    sizes = [found[0]["eval_0_samples"], found[0]["eval_1_samples"]]
    assert sizes == [7, 6]
    rates = [found[0]["eval_0_pass_rate"], found[0]["eval_1_pass_rate"]]
    mean = sum(size * rate for size, rate in zip(sizes, rates, strict=True)) / 13
    assert found[0]["eval_pass_rate"] == pytest.approx(mean, rel=1e-12)


def test_the_loss_of_a_slice_is_that_of_its_rows_alone() -> None:
    trainer = trainer_of(dataclasses.replace(WRITES, evaluate_texts=False), PROMPTS)
    trainer.setup.metrics.clear()
    whole = trainer.evaluate(PROMPTS)
    for kind in (0, 1):
        alone = trainer.evaluate([row for row in PROMPTS if row["kind"] == kind])
        for name in ("loss", "perplexity", "token_accuracy"):
            wanted = alone[f"eval_{name}"]
            assert whole[f"eval_{kind}_{name}"] == pytest.approx(wanted, rel=1e-12)


def test_blocks_go_on_with_their_beginnings() -> None:
    recipe = CausalLM(max_length=24, evaluate_texts=True, prompt_tokens=5, max_new_tokens=4)
    trainer = trainer_of(recipe, TEXTS)
    answers = trainer.answers(TEXTS)
    batch = trainer.train_samples.collate([1])
    length = int(batch.sequence_lengths[0])
    start = min(5, length // 2)
    ids = batch.input_ids.tolist()[start : min(length, start + 4)]
    assert answers[1]["reference"] == trainer.tokenizer.decode(ids, skip_special_tokens=True)


def test_a_set_writes_with_its_own_options() -> None:
    case = Case(dataclasses.replace(WRITES, slices=None), PROMPTS, LLAMA)
    options = {"short": {"max_new_tokens": 2}, "none": {"evaluate_texts": False}, "usual": {}}
    trainer = Trainer(
        case.model(),
        dataclasses.replace(case.recipe, evaluate_texts=True),
        TrainSettings(precision="fp32"),
        tokenizer=case.tokenizer,
        eval_dataset=dict.fromkeys(options, PROMPTS),
        progress=False,
        context=RunContext(data=DataOptions(set_recipes=options)),
    )
    trainer.evaluate()
    found = {name: each.predictions.get("written") for name, each in trainer.evaluations.items()}
    assert found["none"] is None
    assert found["short"].values.shape == (13, 2) and found["usual"].values.shape == (13, 6)


def test_a_text_without_a_prompt_is_refused() -> None:
    with pytest.raises(InputError, match="recipe.evaluate_texts: found true with recipe.train_on="):
        dataclasses.replace(WRITES, train_on="all")
    recipe = dataclasses.replace(WRITES, chat=False, slices=None)
    rows = [{"prompt": "", "completion": "hello world"}]
    with pytest.raises(InputError, match="recipe.evaluate_texts: sample 0 has no prompt; accepted"):
        trainer_of(recipe, PROMPTS).evaluate(rows)


def test_a_slice_of_no_column_is_refused_before_the_first_step() -> None:
    recipe = dataclasses.replace(WRITES, slices="lang")
    with pytest.raises(InputError, match=r"recipe.slices: .*validation has no column 'lang'"):
        Case(recipe, PROMPTS, LLAMA).trainer()
