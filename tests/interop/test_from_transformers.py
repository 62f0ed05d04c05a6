"""Both columns of docs/from_transformers.md run, in order, and give equal results."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Linear
from torch.nn.functional import linear

from trainer.errors import InputError
from trainer.interop.from_transformers import ARGUMENTS, EXAMPLES, TRAINING_ARGUMENTS, page
from trainer.peer_names import PEER_NAMES
from trainer.settings import TrainSettings
from trainer.tokenizer import Tokenizer
from trainer.trainer import Trainer

transformers = pytest.importorskip("transformers")

DATA = [("good", 1), ("very good", 1), ("bad", 0), ("very bad", 0)]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A classifier and a chat model, as transformers saves them."""
    words = [text for text, _ in DATA] * 9
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 37, "max_position_embeddings": 128}
    tokenizer = Tokenizer.train(words, vocab_size=60, kind="wordpiece")
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 2}
    bert = transformers.BertConfig(vocab_size=len(tokenizer), **sizes, **still)
    chat_tokenizer = Tokenizer.train(
        words, vocab_size=300, kind="gpt2", special_tokens=["<|im_start|>", "<|im_end|>", "<pad>"]
    )
    chat_tokenizer.pad_token, chat_tokenizer.chat_template = "<pad>", TEMPLATE
    llama = transformers.LlamaConfig(
        vocab_size=len(chat_tokenizer), pad_token_id=2, bos_token_id=0, eos_token_id=1, **sizes
    )
    for name, model, each in (
        ("my-model", transformers.BertForSequenceClassification(bert), tokenizer),
        ("my-chat-model", transformers.LlamaForCausalLM(llama), chat_tokenizer),
    ):
        model.save_pretrained(tmp_path / name)
        each.save_pretrained(tmp_path / name)
    return tmp_path


def close(found: Any, wanted: Any) -> bool:
    """Whether numbers at any depth are equal within 1e-5, and everything else is equal."""
    if isinstance(found, float):
        return abs(found - wanted) < 1e-5
    if isinstance(found, dict):
        return found.keys() == wanted.keys() and all(close(found[k], wanted[k]) for k in found)
    if isinstance(found, list):
        return len(found) == len(wanted) and all(map(close, found, wanted))
    return bool(found == wanted)


def test_both_columns_give_equal_results(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    theirs: dict[str, Any] = {"torch": torch, "data": DATA}
    ours = dict(theirs)
    for example in EXAMPLES:
        for names, code in ((theirs, example.transformers_code), (ours, example.tempering_code)):
            exec(compile(code, example.topic, "exec"), names)
        found, wanted = (eval(example.result, names) for names in (ours, theirs))
        assert close(found, wanted), f"{example.topic}: {found} here, {wanted} there"


def test_the_page_is_the_table(repository: Path) -> None:
    assert (repository / "docs/from_transformers.md").read_text(encoding="utf-8") == page()


def test_names_of_settings_are_those_of_both_sides() -> None:
    theirs = {field.name for field in fields(transformers.TrainingArguments)}
    ours = {field.name for field in fields(TrainSettings)}
    # `resume_from_checkpoint` is an argument of train() in transformers 5
    assert TRAINING_ARGUMENTS - theirs <= {"resume_from_checkpoint"}
    assert set(ARGUMENTS) == TRAINING_ARGUMENTS
    for name in ARGUMENTS:
        assert PEER_NAMES[name].removeprefix("trainer.") in ours
        with pytest.raises(InputError, match=PEER_NAMES[name].removeprefix("trainer.")):
            Trainer(Linear(1, 1), settings={name: 1}, train_dataset=[{"x": 1}], loss=linear)
    assert {"learning_rate", "weight_decay", "warmup_steps", "max_steps"} <= theirs & ours
