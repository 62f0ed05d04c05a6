"""ONNX files in onnxruntime, and the commands of docs/export.md."""

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trainer.errors import InputError
from trainer.export import onnx_graph

transformers = pytest.importorskip("transformers")
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in PACKAGES), reason="needs the extra onnx"
)


@needs_onnx
@pytest.mark.slow
def test_a_classifier_in_onnxruntime(
    ask: Callable[..., Any], trained: Path, run_readme: Callable[[str], Any]
) -> None:
    answer = ask("job=export", "model.path=run/model", "output.path=onnx", "format=onnx")
    assert answer.code == 0, answer.err
    assert "onnxruntime" in answer.out
    session = onnx_session("onnx")
    assert [each.shape for each in session.get_inputs()] == [["batch", "length"]] * 3
    tokenizer = AutoTokenizer.from_pretrained("onnx")
    batch = tokenizer(["a lovely day", "sad", "cruel " * 20], padding=True, return_tensors="np")
    found = session.run(None, {each.name: batch[each.name] for each in session.get_inputs()})[0]
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained("run/model").eval()
    with torch.no_grad():
        wanted = theirs(**{name: torch.tensor(array) for name, array in batch.items()}).logits
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4, rtol=1e-4)
    assert run_readme("onnx")["outputs"][0].shape == (2, 2)


@needs_onnx
@pytest.mark.slow
def test_a_decoder_writes_the_same_text_in_onnxruntime(
    ask: Callable[..., Any], minilm: Path, run_readme: Callable[[str], Any]
) -> None:
    """With a cache: greedy tokens of a padded batch, equal to transformers'."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 48, "max_position_embeddings": 64, "num_key_value_heads": 2}
    config = AutoConfig({"model_type": "llama", "vocab_size": 30522, **sizes})
    AutoModelForCausalLM.from_config(config).save_pretrained("llama")
    AutoTokenizer.from_pretrained(minilm).save_pretrained("llama")
    answer = ask("job=export", "model.path=llama", "output.path=onnx", "format=onnx")
    assert answer.code == 0, answer.err
    theirs = transformers.AutoModelForCausalLM.from_pretrained("llama").eval()
    ids = torch.tensor([[0, 0, 5, 9], [3, 7, 8, 6]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    wanted = theirs.generate(ids, attention_mask=mask, **settings)[:, 4:].numpy()
    found = written(onnx_session("onnx"), ids.numpy(), mask.numpy(), 5)
    np.testing.assert_array_equal(found, wanted)
    assert run_readme("onnx")["text"].shape[1] > 20


def written(session: Any, ids: Any, mask: Any, count: int) -> Any:
    """Greedy tokens by the program in the export's README."""
    caches = [each for each in session.get_inputs() if each.name.startswith("past_key_values")]
    past = [np.zeros((len(ids), c.shape[1], 0, c.shape[3]), np.float32) for c in caches]
    found = []
    for _ in range(count):
        held = {each.name: tensor for each, tensor in zip(caches, past, strict=True)}
        logits, *past = session.run(None, {"input_ids": ids, "attention_mask": mask, **held})
        ids = logits[:, -1:].argmax(-1)
        mask = np.concatenate((mask, np.ones_like(ids)), 1)
        found.append(ids)
    return np.concatenate(found, 1)


def onnx_session(folder: str) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(Path(folder, "model.onnx")))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "PACKAGES", ("onnx_that_nobody_has",))
    with pytest.raises(InputError, match=r"pip install 'tempering\[onnx\]'"):
        onnx_graph.require_packages()


@pytest.mark.slow
def test_the_commands_of_the_page_run(ask: Callable[..., Any], repository: Path) -> None:
    """The program of the section "In five minutes"."""
    text = (repository / "docs/export.md").read_text().partition("## In five minutes")[2]
    commands, program = re.findall(r"```(?:bash|python)\n(.*?)```", text, flags=re.S)[:2]
    for line in commands.splitlines():
        answer = ask(*line.removeprefix("python launch.py ").split())
        assert answer.code == 0, answer.err
    exec(compile(program, "docs/export.md", "exec"), {})
    assert json.loads(Path("exports/half/export.json").read_text())["dtype"] == "bf16"
