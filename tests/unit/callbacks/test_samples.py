"""Samples: rows of texts by the weights that are evaluated, whatever became of the run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.instruction import Instruction
from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from tests.unit.text_runs import CASES, Case, KillAt, Killed, tokenizer, weights
from trainer import AutoModelForCausalLM
from trainer.callbacks.samples import Samples
from trainer.errors import InputError
from trainer.generation.asking import as_asked
from trainer.generation.settings import GenerationSettings
from trainer.generation.text import generate
from trainer.trainer import Trainer

PROMPTS = ["hello", "why so? 'f(x), [1]'"]
HOW = GenerationSettings(max_new_tokens=6, temperature=0.7)
SETTINGS = {"eval_steps": 2, "save_steps": 3, "ema_decay": 0.5, "learning_rate": 0.05}


def samples() -> Samples:
    return Samples(PROMPTS, HOW)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", ["blocks, gpt2", "chats, adapters"])
def test_they_tell_of_the_weights_that_are_shipped_and_change_nothing(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = CASES[case].trainer(**SETTINGS)
    plain.fit()
    watched = CASES[case].trainer(tmp_path, [samples()], **SETTINGS)
    assert watched.fit()["metrics"] == {k: v for k, v in plain.evaluate().items()}
    assert torch.equal(weights(watched), weights(plain))
    found = rows(tmp_path)
    assert [row["step"] for row in found] == [0, 0, 2, 2, 4, 4, 6, 6]
    assert [row["prompt"] for row in found] == PROMPTS * 4
    with watched._shipped_weights():
        wanted = generate(watched.model, tokenizer(), as_asked(tokenizer(), PROMPTS), HOW)
    assert [row["text"] for row in found[-2:]] == wanted
    assert len({row["text"] for row in found}) > 2
    printed = capsys.readouterr().out
    shown = "\nhello\n" if case.startswith("chats") else "\nhello"
    assert all(f"sample  step {step}{shown}" in printed for step in (0, 2, 4, 6))
    assert PROMPTS[1] not in printed


@pytest.mark.parametrize(
    "fields", [{"chat": False}, {"system": "so?", "date": "2019-08-07"}, {"date": "2020-01-01"}]
)
@pytest.mark.parametrize("chat", ["auto", True])
def test_prompts_are_asked_as_the_recipe_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], chat: Any
) -> None:
    dated = "{{ strftime_now('%Y-%m-%d') }}" + str(tokenizer().chat_template)
    monkeypatch.setattr(tokenizer(), "chat_template", dated)
    rows_ = [{"prompt": "what is two", "completion": " and two?"}] * 5
    case = Case(Instruction(max_length=96, **fields), rows_, CASES["chats, llama"].entries)
    run = case.trainer(tmp_path, [Samples(PROMPTS, HOW, chat)], max_steps=1, num_epochs=1)
    asked: Any = PROMPTS
    if chat is True or fields.get("chat") is not False:
        before = [{"role": "system", "content": fields["system"]}] if "system" in fields else []
        template = dated.replace("{{ strftime_now('%Y-%m-%d') }}", run.recipe.date)
        chats = [[*before, {"role": "user", "content": prompt}] for prompt in PROMPTS]
        asked = tokenizer().apply_chat_template(
            chats, chat_template=template, add_generation_prompt=True, return_dict=False
        )
    wanted = generate(run.model.eval(), tokenizer(), asked, HOW)
    run.fit()
    assert [row["text"] for row in rows(tmp_path)[:2]] == wanted


def test_the_shipped_model_says_what_the_last_row_says(tmp_path: Path) -> None:
    run = CASES["blocks, llama"].trainer(tmp_path, [samples()], **SETTINGS)
    run.fit()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float64)
    prompts = as_asked(tokenizer(), PROMPTS)
    assert [row["text"] for row in rows(tmp_path)[-2:]] == generate(
        model, tokenizer(), prompts, HOW
    )


def test_rows_of_a_killed_run_are_those_of_an_undisturbed_one(tmp_path: Path) -> None:
    case = CASES["chats, llama"]
    case.trainer(tmp_path / "whole", [samples()], **SETTINGS).fit()
    for kill in (1, 3, 5):  # before anything is saved, at a save, after rows that go again
        run = case.trainer(tmp_path / "cut", [samples(), KillAt(kill)], **SETTINGS)
        with pytest.raises(Killed):
            run.fit()
    case.trainer(tmp_path / "cut", [samples()], **SETTINGS).fit()
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_without_an_evaluation_set_or_a_folder_they_are_printed_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = CASES["blocks, llama"].trainer(callbacks=[samples()], eval_steps=3)
    run.eval_samples = {}
    run.fit()
    steps = [line for line in capsys.readouterr().out.splitlines() if line.startswith("sample ")]
    assert steps == [f"sample  step {step}" for step in (0, 3, 6)]


@pytest.mark.parametrize("case", ["chats, llama", "blocks, llama"])
def test_by_default_it_goes_on_with_what_is_evaluated(tmp_path: Path, case: str) -> None:
    run = CASES[case].trainer(tmp_path, [Samples(generation=HOW)], **SETTINGS)
    run.fit()
    prompts = []
    for number in range(3):
        batch = run.eval_samples[""].collate([number])
        ids, length = batch.inputs()["input_ids"], int(batch.sequence_lengths[0])
        if case.startswith("chats"):
            given = int((batch["labels"] != -100).nonzero()[0])
            assert tokenizer().decode(ids[:given]).endswith("<|im_start|>assistant\n")
        else:  # a block begins with what the one before it ends with
            given = int(batch["context"][0]) or min(32, length // 2)
        prompts.append(ids[:given].tolist())
    found = rows(tmp_path)
    shown = tokenizer().batch_decode(prompts, skip_special_tokens=True)
    assert [row["prompt"] for row in found] == shown * 4
    with run._shipped_weights():
        wanted = generate(run.model, tokenizer(), prompts, HOW)
    assert [row["text"] for row in found[-3:]] == wanted


def test_what_cannot_be_gone_on_with_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"callbacks\.samples\.prompts: found none; accepted"):
        Samples([])
    long = CASES["blocks, llama"].trainer(tmp_path / "a", [Samples(["hello", "so " * 300])])
    with pytest.raises(InputError, match=r"prompt 1: found \d+ tokens; accepted: 1 to 256"):
        long.fit()
    room = GenerationSettings(max_new_tokens=256)
    for sets in (long.eval_samples, {}):
        full = CASES["blocks, llama"].trainer(tmp_path / "b", [Samples(generation=room)])
        full.eval_samples = sets
        with pytest.raises(InputError, match="prompts: found null; accepted: prompts, or an eval"):
            full.fit()
    classifier = Trainer(
        tiny_model(),
        RECIPES["single_label"],
        train_dataset=ragged_table(9),
        callbacks=[samples()],
    )
    with pytest.raises(InputError, match="found BertForSequenceClassification; accepted: a causal"):
        classifier.fit()
    assert long.state.step == classifier.state.step == 0


def test_what_was_written_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Its own lines, however long, and no markup."""
    text = " return [bold]\n    " + "word " * 40 + "end"
    samples()._show(7, "def f():", text)
    assert capsys.readouterr().out == f"sample  step 7\ndef f():{text}\n"
