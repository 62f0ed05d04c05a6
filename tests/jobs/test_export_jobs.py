"""The export job: folders, graphs and errors, with the other programs if they are installed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from trainer.export.source import Source

LORA = ("model.lora.rank=4", "model.lora.targets=[query, value]", "trainer.max_steps=1")
LORA += ("dataset.train=train.jsonl", "callbacks=none", "trainer.precision=fp32")


def facts(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "export.json").read_text())
    return found


def test_a_folder_in_another_type(
    ask: Callable[..., Any], trained: Path, run_readme: Callable[[str], Any]
) -> None:
    model = ("model.path=run/model", "format=safetensors")
    answer = ask("job=export", *model, "output.path=narrow", "dtype=bf16")
    assert answer.code == 0, answer.err
    assert "written to" in answer.out and "every tensor, read again: equal" in answer.out
    narrow = AutoModelForSequenceClassification.from_pretrained("narrow", dtype="auto")
    wide = AutoModelForSequenceClassification.from_pretrained("run/model").to(torch.bfloat16)
    for name, tensor in wide.state_dict().items():
        assert torch.equal(tensor, narrow.state_dict()[name]), name
    scores = []
    for folder in ("narrow", "run/model"):
        told = ask("job=predict", f"model.path={folder}", "input.text=a lovely day")
        assert told.code == 0, told.err
        scores.append(json.loads(told.out)["probabilities"]["good"])
    assert scores[0] == pytest.approx(scores[1], abs=0.01)
    card = facts("narrow")
    assert card["source"] == "run/model" and card["dtype"] == "bf16" and card["checks"]
    assert run_readme("narrow")["model"].dtype == torch.bfloat16
    again = ask("job=export", *model, "output.path=narrow", "dtype=bf16")
    assert again.code == 2 and "output.path: narrow exists" in again.err


def test_a_program(
    ask: Callable[..., Any], trained: Path, run_readme: Callable[[str], Any]
) -> None:
    """torch runs the file without this package."""
    answer = ask("job=export", "model.path=run/model", "output.path=program", "format=torch")
    assert answer.code == 0, answer.err
    tokenizer = AutoTokenizer.from_pretrained("program")
    batch = tokenizer(["a lovely day", "sad"], padding=True, return_tensors="pt")
    found = torch.export.load("program/model.pt2").module()(**batch)["logits"]
    model = AutoModelForSequenceClassification.from_pretrained("run/model")
    torch.testing.assert_close(found, model(**batch).logits, atol=1e-5, rtol=1e-5)
    run_readme("program")
    card = facts("program")
    assert card["inputs"]["input_ids"] == ["batch", "length"]
    assert card["outputs"] == {"logits": ["batch", "2"]}


@pytest.mark.slow
def test_a_model_without_token_types_whose_tokenizer_lists_them(
    ask: Callable[..., Any], minilm: Path, run_readme: Callable[[str], Any]
) -> None:
    """As many DistilBERT repositories have it."""
    torch.manual_seed(0)
    sizes = {"dim": 32, "hidden_dim": 48, "n_layers": 1, "n_heads": 2, "vocab_size": 30522}
    config = AutoConfig({"model_type": "distilbert", **sizes, "num_labels": 2})
    AutoModelForSequenceClassification.from_config(config).save_pretrained("m")
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    assert "token_type_ids" in tokenizer.model_input_names
    tokenizer.save_pretrained("m")
    answer = ask("job=export", "model.path=m", "output.path=out", "format=torch")
    assert answer.code == 0, answer.err
    assert list(facts("out")["inputs"]) == ["input_ids", "attention_mask"]
    assert len(run_readme("out")["outputs"])


def test_a_file_that_differs_leaves_nothing_behind(
    ask: Callable[..., Any], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a disk returned other bytes than were written."""
    write = Source.write_whole

    def damaged(source: Source, folder: Path) -> None:
        weight = next(source.model.parameters())
        with torch.no_grad():
            weight[0] += 1
            write(source, folder)
            weight[0] -= 1

    monkeypatch.setattr(Source, "write_whole", damaged)
    answer = ask(
        "job=export", "model.path=run/model", "output.path=x", "format=safetensors", "dtype=fp32"
    )
    assert answer.code == 4 and answer.err.count("\n") == 1, answer.err
    assert "is not what was written; nothing was kept" in answer.err
    assert not [path.name for path in Path.cwd().iterdir() if path.name.endswith("x")]


def test_an_adapter(ask: Callable[..., Any], table: Path, tiny: Path) -> None:
    assert ask(f"model.path={tiny}", *LORA, "output_dir=run").code == 0
    export = ("job=export", "model.path=run/model")
    answer = ask(*export, "output.path=whole", "format=merged", "dtype=fp16")
    assert answer.code == 0, answer.err
    whole = AutoModelForSequenceClassification.from_pretrained("whole", dtype="auto")
    assert whole.lora is None and whole.dtype == torch.float16
    assert facts("whole")["format"] == "merged" and facts("whole")["dtype"] == "fp16"
    answer = ask(*export, "output.path=x", "format=safetensors", "dtype=fp16")
    assert answer.code == 2 and "found an adapter; accepted: format=merged" in answer.err


def test_what_is_refused(ask: Callable[..., Any], trained: Path, tiny: Path) -> None:
    """Each error is one line, and nothing is written."""
    export, model = ("job=export", "output.path=x"), "model.path=run/model"
    refused: list[tuple[tuple[str, ...], str]] = [
        ((*export, model), "format: null; accepted: onnx, torch, merged, safetensors, gguf"),
        ((*export, model, "format=pickle"), "export.format: found 'pickle'"),
        ((*export, model, "format=onnx", "dtype=q8_0"), "accepted: fp32, fp16"),
        ((*export, model, "format=safetensors"), "dtype: null; accepted: fp32, bf16, fp16"),
        (("job=export", model, "format=torch"), "output.path: null"),
        ((*export, "model.path=null", "format=torch"), "model.path: null"),
        ((*export, model, "format=merged"), "run/model is not an adapter"),
        ((*export, model, "format=torch", "output.file=x.jsonl"), "accepted: output.path"),
        ((*export, model, "format=torch", "model.new_head=true"), "the model in model.path alone"),
        (("format=onnx",), "format: unknown key"),
        (
            (
                *export,
                f"model.path={tiny}",
                "format=torch",
                "recipe=masked_lm",
            ),
            "no weights of",
        ),
    ]
    for arguments, message in refused:
        answer = ask(*arguments)
        assert answer.code == 2 and message in answer.err, (arguments, answer.err)
        assert answer.err.count("\n") == 1 and not Path("x").exists(), answer.err
