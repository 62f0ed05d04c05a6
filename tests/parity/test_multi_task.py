"""Models with several heads: each task's part is an ordinary model of transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from trainer.errors import InputError
from trainer.models.auto import TASKS, AutoModel
from trainer.models.config import ModelConfig
from trainer.models.sequence_lengths import SequenceLengths

SIZES = {
    **{"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 48, "max_position_embeddings": 64},
}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": {**SIZES, "pad_token_id": 1},
    "distilbert": {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "modernbert": {
        **SIZES,
        "pad_token_id": 0,
        "local_attention": 8,
        **dict.fromkeys(("bos_token_id", "cls_token_id"), 2),
        **dict.fromkeys(("eos_token_id", "sep_token_id"), 1),
    },
}
LABELS = {"id2label": {"0": "a", "1": "b", "2": "c"}}
HEADS = {
    "kind": {"head": "sequence_classification", "config": LABELS},
    "tags": {"head": "token_classification", "config": LABELS},
    "answer": {"head": "question_answering", "config": {"num_labels": 2}},
    "type": {"head": "multiple_choice"},
}
THEIRS = {
    "kind": transformers.AutoModelForSequenceClassification,
    "tags": transformers.AutoModelForTokenClassification,
    "answer": transformers.AutoModelForQuestionAnswering,
    "type": transformers.AutoModelForMultipleChoice,
}
LENGTHS = torch.tensor([3, 5, 2, 4, 6, 7])
OF_SEQUENCES = torch.tensor([0, 1, 0, 2, 3, 1])


@pytest.mark.parametrize("family", FAMILIES)
def test_each_part_computes_and_loads_as_a_model_of_its_own(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    entries = {"model_type": family, **FAMILIES[family], "task_heads": HEADS}
    model = TASKS["multi_task"].from_config(ModelConfig(entries)).eval()
    model.save_pretrained(tmp_path / "whole")
    again = TASKS["multi_task"].from_pretrained(tmp_path / "whole")
    pairs = zip(model.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    body = AutoModel.from_pretrained(tmp_path / "whole")
    assert torch.equal(body.get_input_embeddings().weight, model.get_input_embeddings().weight)
    ids = torch.randint(5, 99, (int(LENGTHS.sum()),))
    lengths = SequenceLengths(LENGTHS)
    with torch.no_grad():
        outputs = model(ids, sequence_lengths=lengths, sequence_tasks=OF_SEQUENCES)
    assert float(outputs.unused) == 0
    pieces = ids.split(LENGTHS.tolist())
    for number, name in enumerate(model.task_names):
        model.part(name).save_pretrained(tmp_path / name)
        theirs, info = THEIRS[name].from_pretrained(tmp_path / name, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        own = [piece for piece, task in zip(pieces, OF_SEQUENCES, strict=True) if task == number]
        with torch.no_grad():
            found = [theirs(piece.view(1, *[1] * (name == "type"), -1)) for piece in own]
        for field in ("logits",) if name != "answer" else ("start_logits", "end_logits"):
            wanted = torch.cat([each[field].reshape(-1) for each in found])
            ours = getattr(outputs.tasks[name], field).reshape(-1)
            torch.testing.assert_close(ours, wanted, rtol=0, atol=2e-6)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({}, "model.config: task_heads: found {}; accepted: task_heads={name: {head:"),
    "no head": ({"a": {"config": {}}}, "model.config: task_heads: found"),
    "no such head": (
        {"a": {"head": "multi_task"}},
        "model.config: task_heads.a: Bert has no head for multi_task; accepted: ",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_heads_that_make_no_model_are_refused(name: str) -> None:
    heads, message = WRONG[name]
    entries = {"model_type": "bert", **SIZES, "task_heads": heads}
    with pytest.raises(InputError) as caught:
        TASKS["multi_task"].from_config(ModelConfig(entries))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_call_that_says_no_task_is_refused() -> None:
    config = ModelConfig({"model_type": "bert", **SIZES, "task_heads": HEADS})
    model = TASKS["multi_task"].from_config(config)
    with pytest.raises(InputError, match="sequence_tasks: nothing given; accepted: the task of"):
        model(torch.ones(1, 4, dtype=torch.int64))
    with pytest.raises(InputError, match="task: found 'tag'; accepted: kind, tags, .*'tags'"):
        model.part("tag")
