"""Runs with adapters: train, evaluate, predict, continue training, resume, merge."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from trainer.models.adapters.lora_layers import LoRALayer

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
    # like a run that was killed after its first checkpoint
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


@pytest.mark.slow
def test_adapters_beside_quantised_weights(
    ask: Callable[..., Any], table: Path, tiny: Path
) -> None:
    if find_spec("torchao") is None:
        pytest.skip("needs torchao")
    packed = "model.quantization=int8"
    run = (f"model.path={tiny}", *DATA, *LORA, *FAST, "trainer.num_epochs=1", packed)
    done = ask(*run, "output_dir=run")
    assert done.code == 0 and "Failed to load" not in done.err, done.err
    assert {path.name for path in Path("run/model").iterdir()} >= ADAPTER
    evaluated = ("job=evaluate", "dataset.path=dev.jsonl", "trainer.precision=fp32", packed)
    again = ask(*evaluated, "model.path=run/model", "output_dir=e")
    assert again.code == 0, again.err
    assert metrics("e")["eval_loss"] == pytest.approx(metrics("run")["eval_loss"], rel=1e-5)
    for options, found in {
        ("model.new_head=true",): "int8 with new_head=true",
        ("model.from_scratch=true",): "int8 with model.from_scratch=true",
        ("model.backend=transformers",): "int8 with a model that is not of a native family",
        ("model.quantization=int3",): "int3",
        ("model.load_in_4bit=true",): "here it is model.quantization",
        ("job=merge", "model.path=run/model", "output.path=x"): "int8, and adapters are merged",
    }.items():
        merges = options[0] == "job=merge"
        answer = ask(*options, packed) if merges else ask(*run, "output_dir=x", *options)
        assert answer.code == 2 and found in answer.err, answer.err
        assert answer.err.count("\n") == 1 and not Path("x").exists()


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
        "model.lora.trainable_tokens=[5,'day']",
        *FAST,
        "trainer.num_epochs=20",
        "output_dir=run",
    )
    assert answer.code == 0, answer.err
    losses = [
        json.loads(line)["loss"] for line in Path("run/metrics.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < losses[0] / 2
    ids = json.loads(Path("run/model/adapter_config.json").read_text())["trainable_token_indices"]
    assert ids == [5, AutoTokenizer.from_pretrained("base/model").get_vocab()["day"]]
    asked = ("job=generate", "input.prompt=day?", "generation.max_new_tokens=9")
    told = ask(*asked, "model.path=run/model")
    assert told.code == 0 and told.out.strip(), told.err
    AutoModelForCausalLM.from_pretrained("run/model").save_pretrained("whole", merge=True)
    AutoTokenizer.from_pretrained("run/model").save_pretrained("whole")
    assert ask(*asked, "model.path=whole").out == told.out
    # PEFT saves neither tokenizer nor config.json: the base has them
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
        (
            ("model.lora.rank=4", "model.lora.trainable_tokens=[hapy]"),
            "model.lora.trainable_tokens: 'hapy' is not a token of the tokenizer",
        ),
        (("model.lora.ia3=true", "model.lora.rank=4"), "model.lora.rank: found 4 with ia3"),
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


def test_the_merge_job_writes_a_whole_model(
    ask: Callable[..., Any], table: Path, tiny: Path
) -> None:
    """Merges into a half-precision base, without data; overwrites only its own output."""
    AutoModel.from_pretrained(tiny, dtype="bfloat16").save_pretrained("base")
    AutoTokenizer.from_pretrained(tiny).save_pretrained("base")
    arguments = ("model.path=base", *DATA, *LORA, *FAST, "model.lora.dora=true")
    assert ask(*arguments, "output_dir=run").code == 0
    merge = ("job=merge", "model.path=run/model", "output.path=whole")
    for _ in range(2):
        answer = ask(*merge)
        assert answer.code == 0, answer.err
    assert "bfloat16" in answer.out and "whole" in answer.out
    merged = AutoModelForSequenceClassification.from_pretrained("whole", dtype="auto")
    assert merged.lora is None and merged.dtype == torch.bfloat16
    adapted = AutoModelForSequenceClassification.from_pretrained("run/model")
    ids = torch.randint(1000, 2000, (2, 9), generator=torch.Generator().manual_seed(0))
    wanted = adapted(ids).logits
    assert (merged.float()(ids).logits - wanted).norm() < 0.02 * wanted.norm()
    answers = []
    for folder in ("run/model", "whole"):
        told = ask("job=predict", f"model.path={folder}", "input.text=a lovely day")
        assert told.code == 0, told.err
        answers.append(json.loads(told.out)["label"])
    assert answers[0] == answers[1]
    for given, said in (
        (("job=merge", "model.path=run/model"), "output.path: null"),
        (("job=merge", "model.path=whole", "output.path=x"), "is not an adapter"),
        ((*merge[:2], "output.path=run/model"), "output.path: found model.path"),
        ((*merge[:2], "output.path=base"), "output.path: found the adapter's base"),
        ((*merge[:2], "output.path=run"), "was not published by this program"),
        ((*merge, "output.file=x.jsonl"), "output.file: job=merge does not write it"),
        ((*merge, "model.new_head=true"), "accepted: the adapter in model.path alone"),
        (("job=predict", "model.path=whole", "output.path=x"), "output.path: job=predict does not"),
    ):
        answer = ask(*given)
        assert answer.code == 2 and said in answer.err and answer.err.count("\n") == 1, answer.err
    assert not Path("x").exists()


@pytest.mark.slow
def test_scales_are_trained_and_merged(ask: Callable[..., Any], table: Path, tiny: Path) -> None:
    arguments = (f"model.path={tiny}", *DATA, "model.lora.ia3=true", *FAST)
    answer = ask(*arguments, "output_dir=run")
    assert answer.code == 0, answer.err
    config = json.loads(Path("run/model/adapter_config.json").read_text())
    assert config["target_modules"] == ["key", "output.dense", "value"]
    assert config["feedforward_modules"] == ["output.dense"]
    answer = ask("job=merge", "model.path=run/model", "output.path=whole")
    assert answer.code == 0, answer.err
    wanted = metrics("run")["eval_loss"]
    evaluated = ("job=evaluate", "dataset.path=dev.jsonl", "trainer.precision=fp32")
    for name in ("run/model", "whole"):
        answer = ask(*evaluated, f"model.path={name}", f"output_dir=of-{name[:3]}")
        assert answer.code == 0, answer.err
        assert metrics(f"of-{name[:3]}")["eval_loss"] == pytest.approx(wanted, rel=1e-5)
    refused = ask(*arguments, "model.path=run/model", "output_dir=again")
    assert refused.code == 2 and "the model has adapters already" in refused.err


def test_a_merge_that_changes_the_outputs_is_not_published(
    ask: Callable[..., Any], table: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(f"model.path={tiny}", *DATA, *LORA, *FAST, "output_dir=run").code == 0
    monkeypatch.setattr(LoRALayer, "merged", lambda layer, weight, *parts: weight.detach())
    answer = ask("job=merge", "model.path=run/model", "output.path=whole")
    assert answer.code == 4 and "merging changes the outputs" in answer.err
    assert not Path("whole").exists()
