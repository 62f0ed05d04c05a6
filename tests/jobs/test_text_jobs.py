"""Jobs on texts: inspect, a decoder from scratch with its tokenizer, chats."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer import AutoModelForCausalLM, AutoTokenizer
from trainer.tokenizer import Tokenizer

CHAT = [{"role": "user", "content": "day?"}, {"role": "assistant", "content": "happy day"}]
SCRATCH = (
    "model=small_llama",
    "tokenizer=learnt",
    "tokenizer.vocab_size=300",
    "recipe=causal_lm",
    "recipe.max_length=32",
    "model.config={model_type: llama, hidden_size: 32, intermediate_size: 48, "
    "num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, "
    "max_position_embeddings: 64, tie_word_embeddings: true}",
)
FAST = ("trainer.num_epochs=2", "trainer.global_batch_size=8", "callbacks=none")
DATA = ("dataset.train=train.jsonl", "dataset.validation=dev.jsonl")


def chats(folder: Path, number: int) -> None:
    chats = [[{**CHAT[0], "content": f"day {n}?"}, CHAT[1]] for n in range(number)]
    lines = [json.dumps({"messages": chat}) for chat in chats]
    (folder / "chats.jsonl").write_text("\n".join(lines) + "\n")


def test_inspect_shows_samples_of_any_recipe(
    ask: Callable[..., Any], table: Path, tiny: Path
) -> None:
    path = f"model.path={tiny}"
    answer = ask("job=inspect", path, *DATA, "inspect.samples=2", "recipe.max_length=6")
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[0].split() == ["dataset.train", "96", "rows,", "96", "samples"]
    assert any(line.split()[:1] == ["truncated"] for line in lines)
    assert "dataset.validation  40 rows, 40 samples" in answer.out
    assert "columns        text (text), label (text)" in answer.out
    assert "'label': single_label\n               bad " in answer.out
    assert "dataset.validation: 1 of 40 rows is in dataset.train too" in answer.out
    assert answer.out.count("\nsample ") == 4 and ", labels bad" in answer.out
    assert "[CLS]" in answer.out and "{+" not in answer.out  # classes are learnt, tokens are not


def test_inspect_shows_the_learning_rate_of_each_group(
    ask: Callable[..., Any], table: Path, tiny: Path
) -> None:
    shared = ("job=inspect", f"model.path={tiny}", *DATA, "inspect.samples=0")
    shared = (*shared, "trainer.learning_rate=1e-3", "trainer.weight_decay=0.1")
    groups = "trainer.parameter_groups={'*pooler*': {lr_scale: 2}}"
    answer = ask(*shared, groups, "trainer.layer_decay=0.5")
    assert answer.code == 0, answer.err
    rates = answer.out.split("learning rate  weight decay\n")[1].split("\n")
    of_embeddings = next(row.split() for row in rates if row.startswith("body.embeddings.token"))
    assert of_embeddings[-2:] == ["0.000125", "0.1"]  # fewer than two layers
    of_the_pooler = next(row.split() for row in rates if row.startswith("body.pooler"))
    assert of_the_pooler[-2:] == ["0.002", "0.1"]
    assert "learning rate  weight" not in ask(*shared).out
    refused = ask(*shared, "trainer.parameter_groups={nothing: {lr_scale: 2}}")
    assert refused.code == 2 and "'nothing' matches no parameter" in refused.err


def test_inspect_marks_what_is_learnt(ask: Callable[..., Any], table: Path, tiny: Path) -> None:
    chats(table, 10)
    answer = ask(
        "job=inspect", f"model.path={tiny}", "dataset.train=chats.jsonl", "recipe=instruction"
    )
    assert answer.code == 0, answer.err
    learnt = [line for line in answer.out.splitlines() if "{+" in line]
    assert learnt and all(
        "{+happy day" in line and "day?" not in line.split("{+")[1] for line in learnt
    )


def test_a_decoder_from_scratch_with_its_tokenizer(ask: Callable[..., Any], table: Path) -> None:
    answer = ask(*SCRATCH, *DATA, *FAST, "output_dir=run")
    assert answer.code == 0, answer.err
    results = json.loads(Path("run/results.json").read_text())
    assert {"eval_loss", "eval_perplexity", "eval_token_accuracy"} == results["metrics"].keys()
    assert "predict" not in results["commands"]
    typed = results["commands"]["generate"].split()[2:]
    assert "generation.temperature=0.8" in typed
    assert ask(*typed).code == 0
    tokenizer = AutoTokenizer.from_pretrained("run/model")
    model = AutoModelForCausalLM.from_pretrained("run/model")
    assert model.config.vocab_size == len(tokenizer) <= 300
    assert model.config.eos_token_id == tokenizer.eos_token_id
    again = ask("from=run", "job=evaluate", "callbacks=none", "output_dir=again")
    assert again.code == 0, again.err
    found = json.loads(Path("again/evaluation.json").read_text())["metrics"]
    assert found["eval_loss"] == pytest.approx(results["metrics"]["eval_loss"], rel=1e-6)
    done = ask(*SCRATCH, *DATA, *FAST, "output_dir=run")
    assert done.code == 0 and "nothing to do" in done.out


def test_a_decoder_from_scratch_takes_the_ids_of_any_tokenizer(
    ask: Callable[..., Any], table: Path
) -> None:
    texts = [f"happy day {n}" for n in range(9)]
    tokens = ["<a>", "<b>", "<c>", "<end>"]
    tokenizer = Tokenizer.train(texts, vocab_size=300, kind="gpt2", special_tokens=tokens)
    tokenizer.eos_token, tokenizer.bos_token = "<end>", "<b>"
    tokenizer.save_pretrained("tok")
    scratch = (*SCRATCH[:1], *SCRATCH[3:], "tokenizer.path=tok")
    fast = ("trainer.max_steps=1", "trainer.global_batch_size=8", "callbacks=none")
    for folder, more in (("one", ()), ("two", ("model.config.bos_token_id=7",))):
        answer = ask(*scratch, *more, *DATA, *fast, f"output_dir={folder}")
        assert answer.code == 0, answer.err
    config = AutoModelForCausalLM.from_pretrained("one/model").config
    assert config.vocab_size == len(tokenizer)
    assert config.eos_token_id == tokenizer.eos_token_id != 2
    assert config.bos_token_id == tokenizer.bos_token_id != 7
    config = AutoModelForCausalLM.from_pretrained("two/model").config
    assert config.bos_token_id == 7 and config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize("family", ["distilbert", "roberta", "modernbert"])
def test_an_encoder_from_scratch_takes_a_given_tokenizer(
    ask: Callable[..., Any], table: Path, minilm: Path, family: str
) -> None:
    sizes = "hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64"
    scratch = ("model.path=null", "model.from_scratch=true", f"tokenizer.path={minilm}")
    config = f"model.config={{model_type: {family}, {sizes}}}"
    fast = ("trainer.max_steps=1", "callbacks=none", "output_dir=run")
    answer = ask(*scratch, config, *DATA, *fast)
    assert answer.code == 0, answer.err
    found = json.loads(Path("run/model/config.json").read_text())
    assert (found["pad_token_id"], found["vocab_size"]) == (0, 30522)
    if family == "modernbert":
        assert (found["cls_token_id"], found["sep_token_id"]) == (101, 102)


def test_chats_train_and_evaluate(ask: Callable[..., Any], table: Path) -> None:
    assert ask(*SCRATCH, *DATA, *FAST, "output_dir=base").code == 0
    chats(table, 40)
    chat = ("model.path=base/model", "recipe=instruction", "recipe.max_length=64")
    answer = ask(*chat, "dataset.train=chats.jsonl", *FAST, "output_dir=run")
    assert answer.code == 0, answer.err
    assert "im_start" in AutoTokenizer.from_pretrained("run/model").chat_template
    answer = ask(
        "job=evaluate", "model.path=run/model", "dataset.validation=chats.jsonl", "output_dir=e"
    )
    assert answer.code == 0, answer.err
    metrics = json.loads(Path("e/evaluation.json").read_text())["metrics"]
    assert metrics.keys() == {"eval_loss", "eval_perplexity", "eval_token_accuracy"}
    wrong = ("job=evaluate", "model.path=run/model", "metrics=classification")
    answer = ask(*wrong, "dataset.validation=chats.jsonl")
    assert answer.code == 2 and "metrics.accuracy: Instruction compares nothing" in answer.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tokenizer.train=true", "recipe=instruction"), "tokenizer.train: Instruction has no"),
        (("model.path=null", "tokenizer.train=true"), "model.path: null; accepted: a path"),
        (
            ("model.path=null", "model.from_scratch=true", "tokenizer.train=true"),
            "model.config.model_type: nothing given; accepted: a family",
        ),
        (
            ("inspect.samples=2",),
            "inspect.samples: job=train has no inspect; accepted: for example job=inspect",
        ),
        (("job=inspect", "inspect.samples=-1"), "inspect: found samples=-1"),
        (("job=inspect", "inspect.sample=1"), "inspect.sample: "),
    ],
)
def test_what_contradicts_itself_is_refused(
    ask: Callable[..., Any], table: Path, tiny: Path, arguments: Any, said: str
) -> None:
    answer = ask(f"model.path={tiny}", *DATA, *arguments)
    assert answer.code == 2 and answer.err.startswith(f"error: {said}"), answer.err
