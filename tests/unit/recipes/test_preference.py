"""Preferences: rows in every form, their trained tokens, bad rows, and the figures."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.preference import Preference
from recipes.reward_modelling import RewardModelling
from recipes.unpaired_preference import UnpairedPreference
from tests.unit.text_runs import LLAMA, PAIRS, SINGLES, WORDS, Case, tokenizer
from trainer.data.in_memory_rows import as_table
from trainer.data.plain_answers import PlainAnswers
from trainer.data.preference_rows import completed_chats, mismatched, with_mismatched
from trainer.data.preprocessing import samples_of
from trainer.data.read_options import BadRows
from trainer.data.tokens import TokenTable
from trainer.errors import InputError
from trainer.rendering.sample_text import sample_text
from trainer.settings import TrainSettings
from trainer.tasks.columns import Column
from trainer.tasks.preference_losses import group_kl, kto_loss, odds_ratio_loss, sigmoid_loss
from trainer.tasks.preference_objective import OBJECTIVES
from trainer.trainer import Trainer
from trainer.training.evaluator import Evaluator
from trainer.training.session import prepare


def table(rows: list[dict[str, Any]], recipe: Any = None, drop: bool = False) -> TokenTable:
    policy = BadRows("drop", 0.9) if drop else None
    found = samples_of(
        as_table(rows, "rows"), recipe or Preference(), tokenizer(), where="rows", bad_rows=policy
    )
    assert isinstance(found, TokenTable)
    return found


def said(message: str, role: str = "user") -> dict[str, str]:
    return {"role": role, "content": message}


def answered(message: str) -> dict[str, str]:
    return said(message, "assistant")


ASKED, YES, NO = "why so?", "of course", "two and two"
FORMS: dict[str, dict[str, Any]] = {
    "texts": {"prompt": ASKED, "chosen": YES, "rejected": NO},
    "messages": {
        "prompt": [said(ASKED)], "chosen": [answered(YES)], "rejected": [answered(NO)],
    },
    "text and messages": {
        "prompt": ASKED, "chosen": [answered(YES)], "rejected": [answered(NO)],
    },
    "conversations": {
        "chosen": [said(ASKED), answered(YES)], "rejected": [said(ASKED), answered(NO)],
    },
    "conversations and their prompt": {
        "prompt": ASKED,
        "chosen": [said(ASKED), answered(YES)],
        "rejected": [said(ASKED), answered(NO)],
    },
    "sharegpt": {
        "prompt": [{"from": "human", "value": ASKED}],
        "chosen": [{"from": "gpt", "value": YES}],
        "rejected": [{"from": "gpt", "value": NO}],
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_row_is_the_same_sample(form: str) -> None:
    found, wanted = table([FORMS[form]]), table([FORMS["texts"]])
    batch = found.collate([0])
    assert found.fingerprint == wanted.fingerprint
    assert batch.roles is not None and batch.roles.tolist() == [0, 1]
    learnt = Preference().trained_on(batch)
    lengths = batch.sequence_lengths.tolist()
    texts = [
        tokenizer().decode(ids[mask].tolist())
        for ids, mask in zip(batch.input_ids.split(lengths), learnt.split(lengths), strict=True)
    ]
    assert texts == [f"{YES}<|im_end|>", f"{NO}<|im_end|>"]


def test_a_chat_has_its_own_system_message_and_earlier_answers_are_no_completion() -> None:
    history = [said("hello"), answered("hello, world"), said(ASKED)]
    rows = [
        {"chosen": [*history, answered(YES)], "rejected": [*history, answered(NO)], "system": "two"}
    ]
    batch = table(rows).collate([0])
    text = tokenizer().decode(batch.input_ids.tolist())
    assert text.count("system\ntwo") == 2 and text.count("hello, world") == 2
    labels = batch["labels"][: int(batch.sequence_lengths[0])]
    assert tokenizer().decode(labels[labels != -100].tolist()) == f"{YES}<|im_end|>"


def test_plain_texts_need_no_prompt_where_they_begin_alike() -> None:
    recipe = Preference(chat=False)
    apart = table([{"prompt": "Q: why? A: ", "chosen": "so", "rejected": "no"}], recipe)
    whole = table([{"chosen": "Q: why? A: so", "rejected": "Q: why? A: no"}], recipe)
    assert whole.fingerprint == apart.fingerprint


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "equal": ({"chosen": YES, "rejected": YES}, "'chosen' and 'rejected' are equal"),
    "empty": ({"rejected": " "}, "'rejected' is empty"),
    "null": ({"chosen": None}, "'chosen' is null"),
    "no messages": ({"chosen": [], "rejected": [answered(NO)]}, "'chosen' is empty"),
    "a number": ({"chosen": 3}, "'chosen' is 3 (int)"),
    "no answer": (
        {"chosen": [answered(YES), said("so?")], "rejected": [answered(NO)]},
        "'chosen' ends with the role user",
    ),
    "not the prompt": (
        {"chosen": [said("hello"), answered(YES)], "rejected": [said("hello"), answered(NO)]},
        "'prompt' is not the beginning of 'chosen'",
    ),
    "too long": ({"prompt": ASKED * 40}, "no token of 'chosen' is in the first 64 tokens"),
    "equal where cut": (
        {"chosen": f"{WORDS * 4} a", "rejected": f"{WORDS * 4} b"},
        "are equal in their first 64 tokens",
    ),
    "weights": ({"weight": 0}, "'weight' is not read"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_refused_in_one_line_or_dropped(name: str) -> None:
    bad, expected = BAD[name]
    rows = [FORMS["texts"], {**FORMS["texts"], **bad}]
    recipe = Preference(max_length=64)
    with pytest.raises(InputError) as caught:
        table(rows, recipe)
    assert "row 1" in str(caught.value) and expected in str(caught.value)
    assert "\n" not in str(caught.value)
    kept = table(rows, recipe, drop=True)
    assert len(kept) == 1 and expected in kept.dropped[0].reason


@pytest.mark.parametrize(
    ("recipe", "rows", "expected"),
    [
        (Preference(), [{"prompt": ASKED, "chosen": YES}], "no column 'rejected'"),
        (Preference(), [{"chosen": YES, "rejected": NO}], "no prompt for 'chosen'"),
        (UnpairedPreference(), [{"prompt": ASKED, "label": 1}] * 2, "no column 'completion'"),
        (UnpairedPreference(), [{"prompt": ASKED, "completion": YES}] * 2, "no column 'label'"),
        (UnpairedPreference(), SINGLES[:1], "found one row"),
        (UnpairedPreference(), [{**SINGLES[0], "label": 2}] * 2, "'label' is 2"),
    ],
)
def test_missing_columns_are_named(recipe: Any, rows: Any, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        table(rows, recipe)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "ppo"}, {"beta": 0.0}, {"label_smoothing": 0.5}, {"margin": -1.0},
        {"objective": "ipo", "label_smoothing": 0.1}, {"system": "x", "chat": False},
    ],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="recipe."):
        Preference(**options)


def test_only_objectives_with_a_reference_derive_it() -> None:
    found = {name for name in OBJECTIVES if Preference(objective=name).derived}
    assert found == {"dpo", "ipo", "hinge"}
    assert UnpairedPreference(kl_group=3).group_size == 3


def test_a_single_completion_stands_beside_one_of_another_row() -> None:
    rows = as_table(SINGLES[:3], "rows")
    found = samples_of(rows, UnpairedPreference(), tokenizer(), where="rows")
    batch = found.collate(range(3))
    assert batch.roles.tolist() == [1, 2, 0, 2, 0, 2]  # good, bad, mismatched
    pieces = batch.input_ids.split(batch.sequence_lengths.tolist())
    own = SINGLES[-1 % 3]["completion"]
    assert own in tokenizer().decode(pieces[1].tolist())
    assert SINGLES[0]["completion"] in tokenizer().decode(pieces[3].tolist())
    assert SINGLES[1]["prompt"] in tokenizer().decode(pieces[3].tolist())


def test_messages_as_json_are_mismatched_like_lists() -> None:
    """The text of a whole conversation, as csv files have it, is not one answer."""
    chats = [[said(f"q{n}"), answered(f"a{n}")] for n in range(3)]
    found = []
    for form in (list, json.dumps):
        rows = with_mismatched(as_table([{"completion": form(chat)} for chat in chats], "x"), "x")
        (column,) = completed_chats(mismatched(rows[:]), ["completion"])
        found.append([each.messages for each in column])
    assert found[0] == found[1]
    assert found[1] == [[said(f"q{n}"), answered(f"a{(n - 1) % 3}")] for n in range(3)]


def test_the_losses_are_the_papers() -> None:
    delta = torch.tensor([0.0, 2.0, -1.0], dtype=torch.float64)
    probability = 1 / (1 + (-delta).exp())
    torch.testing.assert_close(sigmoid_loss(delta), -probability.log())
    smoothed = -0.9 * probability.log() - 0.1 * (1 - probability).log()
    torch.testing.assert_close(sigmoid_loss(delta, 0.1), smoothed)
    chosen, rejected = torch.tensor([0.8]).log(), torch.tensor([0.5]).log()
    odds = (0.8 / 0.2) / (0.5 / 0.5)
    assert odds_ratio_loss(chosen, rejected).item() == pytest.approx(-math.log(odds / (1 + odds)))
    certain = torch.zeros(1, requires_grad=True)
    odds_ratio_loss(certain, torch.tensor([-1.0])).sum().backward()
    assert torch.isfinite(certain.grad).all()
    kl = group_kl(torch.tensor([1.0, 3.0, -5.0, 1.0, 4.0]), 2)
    assert kl.tolist() == [2.0, 2.0, 0.0, 0.0, 4.0]
    good = torch.tensor([True, False])
    found = kto_loss(torch.tensor([3.0, 3.0]), good, torch.tensor([2.0, 2.0]), beta=1.0)
    gain = 1 / (1 + math.exp(-1.0))
    assert found.tolist() == pytest.approx([1 - gain, gain])


def test_the_figures_are_those_of_the_rewards() -> None:
    rewards = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [1.0, 1.0]])
    columns = {"rewards": Column(rewards), "log_probs": Column(rewards - 5)}
    found = Preference().measure(0.5, columns)
    assert found == {
        "preference_accuracy": 0.5, "margin": 0.5, "chosen_reward": 1.25,
        "rejected_reward": 0.75, "chosen_log_prob": -3.75, "rejected_log_prob": -4.25,
    }  # fmt: skip
    assert found.keys() == Preference.measures.keys()


@pytest.mark.parametrize("good", [0, 1])
def test_measures_of_completions_of_one_kind_are_nan(good: int) -> None:
    names = ("rewards", "log_probs", "kl")
    columns = {name: Column(np.array([0.5, 0.25])) for name in names}
    found = UnpairedPreference().measure(0.5, {**columns, "good": Column(np.full(2, good))})
    assert found.keys() == UnpairedPreference.measures.keys()
    there, missing = ("good", "bad") if good else ("bad", "good")
    assert found[f"{there}_reward"] == 0.375
    undefined = {name for name, value in found.items() if math.isnan(value)}
    assert undefined == {f"{missing}_reward", f"{missing}_log_prob", "margin"}


@pytest.mark.parametrize("objective", [*OBJECTIVES, "kto"])
def test_a_few_steps_prefer_the_chosen_completions(objective: str) -> None:
    recipe = (
        UnpairedPreference(max_length=96, kl_group=2)
        if objective == "kto"
        else Preference(objective=objective, max_length=96)
    )
    trainer = Case(recipe, SINGLES if objective == "kto" else PAIRS, LLAMA).trainer(
        learning_rate=1e-2, num_epochs=4
    )
    found = trainer.fit()["metrics"]
    assert found["eval_preference_accuracy"] >= 0.8 and found["eval_margin"] > 0
    assert {name.removeprefix("eval_") for name in found} - {"loss"} == recipe.measures.keys()


def test_a_sample_shows_its_roles() -> None:
    text = sample_text(0, table(PAIRS[:1]), Preference(), tokenizer(), 500, marked=True).plain
    assert "chosen: " in text and "rejected: " in text and "{+no 0<|im_end|>+}" in text


def test_made_preferences_are_the_same_on_every_call() -> None:
    first, again = PlainAnswers().load(), PlainAnswers().load()
    assert first.train.to_list() == again.train.to_list() and len(first.train) == 160
    assert not {row["chosen"] for row in first.train} & {
        row["chosen"] for row in first.validation[""]
    }
    single = PlainAnswers(paired=False).load()
    assert len(single.train) == 320 and sum(single.train["label"]) == 160


PLAIN = {**LLAMA, "attention_dropout": 0.0}
TRAINED = {
    "dpo": Case(Preference(max_length=96), PAIRS, PLAIN),
    "orpo": Case(Preference(objective="orpo", max_length=96), PAIRS, PLAIN),
    "kto": Case(UnpairedPreference(max_length=96, kl_group=2), SINGLES, PLAIN),
    "rewards": Case(RewardModelling(max_length=96), PAIRS, PLAIN),
}


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_step_logs_the_figures_of_an_evaluation(name: str, tmp_path: Path) -> None:
    """In the first step, for any micro batch, on the same rows without dropout."""
    case = TRAINED[name]
    rows = [dict(row) for row in case.rows[:12]]
    # the model is still the reference: only rounding tells its rewards from each other
    chance = {"preference_accuracy"} if name in ("dpo", "kto") else set()
    others = {"kl"} if name == "kto" else set()  # of other groups
    expected = None
    for micro in (None, 2):
        settings = TrainSettings(
            precision="fp32",
            global_batch_size=12,
            micro_batch_size=micro,
            max_steps=2,
            logging_steps=1,
            eval_steps=0,
            learning_rate=1e-2,
        )
        run = Trainer(
            case.model(),
            case.recipe,
            settings,
            tokenizer=case.tokenizer,
            train_dataset=rows,
            eval_dataset=rows,
            output_dir=tmp_path / str(micro),
        )
        session = prepare(run.setup)  # with the initial weights' log-probabilities of each row
        before = Evaluator(session.setup).measure_sets()
        run.fit()
        logged = [
            json.loads(line)
            for line in (tmp_path / str(micro) / "metrics.jsonl").read_text().splitlines()
        ]
        for figure in set(case.recipe.step_figures) - chance - others:
            tolerance = {"rel": 1e-9, "abs": 1e-9}
            assert logged[0][figure] == pytest.approx(before[f"eval_{figure}"], **tolerance)
        found = [{figure: row[figure] for figure in case.recipe.step_figures} for row in logged[:2]]
        assert len(found[0]) >= 4 and found[0] != found[1]
        found[0] = {figure: value for figure, value in found[0].items() if figure not in chance}
        expected = expected or found
        for row, other in zip(found, expected, strict=True):
            assert row == pytest.approx(other, rel=1e-6, abs=1e-9)
