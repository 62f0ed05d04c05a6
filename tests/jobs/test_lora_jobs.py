"""Runs with adapters: trained, evaluated, asked, gone on with, resumed, merged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

DATA = ("dataset.train=train.jsonl", "dataset.validation=dev.jsonl")
LORA = ("model.lora.rank=4", "model.lora.dropout=0.1", "model.lora.targets=[query, value]")
FAST = ("trainer.learning_rate=2e-2", "trainer.num_epochs=2", "trainer.global_batch_size=16")
FAST += ("trainer.precision=fp32", "callbacks=none")
ADAPTER = {"adapter_config.json", "adapter_model.safetensors", "model_config.json", "recipe.json"}


def metrics(folder: str) -> dict[str, float]:
    file = Path(folder, "results.json")
    file = file if file.exists() else Path(folder, "evaluation.json")
    return json.loads(file.read_text())["metrics"]


def test_a_classifier_with_adapters(ask: Callable[..., Any], table: Path, tiny: Path) -> None:
    arguments = (f"model.path={tiny}", *DATA, *LORA, *FAST)
    answer = ask(*arguments, "output_dir=run")
    assert answer.code == 0, answer.err
    files = {path.name for path in Path("run/model").iterdir()}
    assert files >= ADAPTER and "model.safetensors" not in files
    config = json.loads(Path("run/model/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny.resolve())
    assert config["target_modules"] == ["query", "value"]
    assert config["modules_to_save"] == ["classifier"]
    wanted = metrics("run")["eval_loss"]
    evaluated = ("job=evaluate", "dataset.path=dev.jsonl", "trainer.precision=fp32", "output_dir=e")
    again = ask(*evaluated, "model.path=run/model")
    assert again.code == 0, again.err
    assert metrics("e")["eval_loss"] == pytest.approx(wanted, rel=1e-5)
    told = ask("job=predict", "model.path=run/model", "input.text=a lovely day")
    assert told.code == 0 and json.loads(told.out)["label"] in ("good", "bad"), told.err
    # as one that was killed after its first checkpoint
    shutil.copytree("run", "killed")
    for name in ("model", "results.json"):
        path = Path("killed", name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree("killed/checkpoint-12")
    assert ask(*arguments, "output_dir=killed").code == 0
    weights = [Path(run, "model/adapter_model.safetensors") for run in ("run", "killed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_merged_adapters_answer_alike(ask: Callable[..., Any], table: Path, tiny: Path) -> None:
    arguments = (f"model.path={tiny}", *DATA, *LORA, *FAST)
    assert ask(*arguments, "output_dir=run").code == 0
    assert ask(*arguments, "model.lora.merge=true", "output_dir=merged").code == 0
    assert Path("merged/model/model.safetensors").exists()
    assert not Path("merged/model/adapter_config.json").exists()
    answers = []
    for run in ("run", "merged"):
        texts = json.dumps(["a lovely day", "sad, cruel"])
        told = ask(
            "job=predict",
            f"model.path={run}/model",
            f"input.text={texts}",
            "trainer.precision=fp32",
        )
        answers.append([json.loads(line)["score"] for line in told.out.splitlines()])
    assert answers[0] == pytest.approx(answers[1], rel=1e-4)
    model = AutoModelForSequenceClassification.from_pretrained("merged/model")
    assert model.lora is None and model.config.id2label == {0: "bad", 1: "good"}


def test_an_adapter_is_trained_on(ask: Callable[..., Any], table: Path, tiny: Path) -> None:
    assert ask(f"model.path={tiny}", *DATA, *LORA, *FAST, "output_dir=run").code == 0
    answer = ask("model.path=run/model", *DATA, *FAST, "output_dir=more")
    assert answer.code == 0, answer.err
    config = json.loads(Path("more/model/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny.resolve())
    assert metrics("more")["eval_loss"] != metrics("run")["eval_loss"]
    answer = ask("model.path=run/model", *DATA, *FAST, *LORA, "output_dir=x")
    assert answer.code == 2 and "the model has adapters already" in answer.err
    assert not Path("x").exists()


def test_a_chat_model_with_adapters(ask: Callable[..., Any], table: Path) -> None:
    scratch = (
        *("model=small_llama", "tokenizer=learnt", "tokenizer.vocab_size=300", "recipe=causal_lm"),
        *("recipe.max_length=32", "model.config.hidden_size=32"),
        *("model.config.intermediate_size=48", "model.config.num_hidden_layers=2"),
        "model.config.initializer_range=0.3",
    )
    assert ask(*scratch, *DATA, *FAST, "output_dir=base").code == 0
    chat = [{"role": "user", "content": "day?"}, {"role": "assistant", "content": "happy day"}]
    Path("chats.jsonl").write_text(f"{json.dumps({'messages': chat})}\n" * 40)
    answer = ask(
        "model.path=base/model",
        "recipe=instruction",
        "recipe.max_length=64",
        "dataset.train=chats.jsonl",
        "dataset.validation_fraction=0",
        "model.lora.rank=8",
        *FAST,
        "trainer.num_epochs=20",
        "output_dir=run",
    )
    assert answer.code == 0, answer.err
    losses = [
        json.loads(line)["loss"] for line in Path("run/metrics.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < losses[0] / 2
    asked = ("job=generate", "input.prompt=day?", "generation.max_new_tokens=9")
    told = ask(*asked, "model.path=run/model")
    assert told.code == 0 and told.out.strip(), told.err
    AutoModelForCausalLM.from_pretrained("run/model").save_pretrained("whole", merge=True)
    AutoTokenizer.from_pretrained("run/model").save_pretrained("whole")
    assert ask(*asked, "model.path=whole").out == told.out
    # what PEFT saves has neither tokenizer nor config.json: they are the base's
    bare = Path("bare")
    bare.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(Path("run/model", name), bare)
    AutoTokenizer.from_pretrained("run/model").save_pretrained("base/model")
    assert ask(*asked, "model.path=bare").out == told.out
    answer = ask("job=evaluate", "model.path=bare", "dataset.path=dev.jsonl", "output_dir=e")
    assert answer.code == 0 and metrics("e")["eval_perplexity"] > 1, answer.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("model.lora.rank=0",), "model.lora.rank: found 0; accepted: 1 or more, null"),
        (("model.lora.alpha=4",), "model.lora.alpha: found it without a rank"),
        (("model.lora.ranks=4",), "model.lora.ranks: "),
        (("model.lora.rank=4", "model.lora.targets=[qurey]"), "model.lora.targets: 'qurey' is no"),
        (("model.lora.merge=true",), "model.lora.merge: the model has no adapters"),
        (("model.lora.rank=4", "model.from_scratch=true"), "model.lora: the model has random"),
    ],
)
def test_adapters_that_cannot_be_are_refused(
    ask: Callable[..., Any], table: Path, tiny: Path, arguments: Any, said: str
) -> None:
    answer = ask(f"model.path={tiny}", *DATA, *arguments, "output_dir=run")
    assert answer.code == 2 and answer.err.startswith(f"error: {said}"), answer.err
    assert not Path("run").exists()
