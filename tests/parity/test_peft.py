"""Adapters against PEFT: ours load there, theirs load here, and the numbers are the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

peft = pytest.importorskip("peft")
import transformers  # noqa: E402

from trainer.models.auto import TASKS, AutoConfig  # noqa: E402
from trainer.models.family import find_family  # noqa: E402
from trainer.models.lora_settings import LoRASettings  # noqa: E402

THEIRS = {
    "base": (transformers.AutoModel, "FEATURE_EXTRACTION"),
    "causal_lm": (transformers.AutoModelForCausalLM, "CAUSAL_LM"),
    "masked_lm": (transformers.AutoModelForMaskedLM, None),
    "sequence_classification": (transformers.AutoModelForSequenceClassification, "SEQ_CLS"),
    "token_classification": (transformers.AutoModelForTokenClassification, "TOKEN_CLS"),
}
SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,
}
CASES = [
    ("llama", "causal_lm", "all-linear"),
    ("llama", "sequence_classification", ["q_proj", "down_proj"]),
    ("qwen3", "causal_lm", "all-linear"),
    ("gpt2", "causal_lm", "all-linear"),
    ("bert", "base", "all-linear"),
    ("bert", "masked_lm", ["query", "attention.output.dense"]),
    ("bert", "sequence_classification", "all-linear"),
    ("distilbert", "sequence_classification", ["q_lin", "lin1"]),
    ("roberta", "token_classification", ["key", "dense"]),
    ("modernbert", "token_classification", ["Wqkv", "Wo"]),
]
IDS = torch.randint(3, 99, (2, 7), generator=torch.Generator().manual_seed(0))
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture
def base(tmp_path: Path, family: str, task: str) -> Path:
    """The folder of a random base; but for ModernBERT without the head that a classifier needs.

    PEFT trains ModernBERT's classifier, and forgets what is before it.
    """
    torch.manual_seed(0)
    has_head = task.endswith("lm") or family == "modernbert"
    known = find_family(family)
    sizes = SIZES | {"num_key_value_heads": 2, "head_dim": 8} if family == "qwen3" else SIZES
    entries = {known.synonyms.get(name, name): value for name, value in sizes.items()}
    model = TASKS[task if has_head else "base"].from_config(
        AutoConfig({"model_type": family, **entries})
    )
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def randomize(model: nn.Module) -> None:
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, 0.0, 0.2)


@pytest.mark.parametrize(("family", "task", "targets"), CASES)
def test_ours_load_there_and_come_back(base: Path, task: str, targets: Any, tmp_path: Path) -> None:
    named = [] if targets == "all-linear" else targets
    ours = TASKS[task].from_pretrained(base)
    ours.add_lora(LoRASettings(rank=4, alpha=6, targets=named))
    randomize(ours)
    ours.save_pretrained(tmp_path / "ours")
    wanted = ours(IDS)[0]
    theirs = peft.PeftModel.from_pretrained(
        THEIRS[task][0].from_pretrained(base), tmp_path / "ours"
    ).eval()
    torch.testing.assert_close(theirs(IDS)[0], wanted, **CLOSE)
    adapted = [name for name, _ in theirs.named_parameters() if "lora_A" in name]
    assert len(adapted) == sum("lora_A" in name for name, _ in ours.named_parameters())
    theirs.save_pretrained(tmp_path / "theirs")
    assert torch.equal(TASKS[task].from_pretrained(tmp_path / "theirs")(IDS)[0], wanted)


@pytest.mark.parametrize(("family", "task", "targets"), CASES)
@pytest.mark.parametrize("rslora", [False, True])
def test_theirs_load_here(
    base: Path, task: str, targets: Any, rslora: bool, tmp_path: Path
) -> None:
    model, task_type = THEIRS[task]
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=targets, task_type=task_type, use_rslora=rslora
    )
    if targets != "all-linear" and task == "token_classification":
        config.exclude_modules = ["classifier", "classifier.dense", "head.dense"]
    theirs = peft.get_peft_model(model.from_pretrained(base), config).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = TASKS[task].from_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(ours(IDS)[0], theirs(IDS)[0], **CLOSE)
    ours.merge_lora()
    merged = theirs.merge_and_unload()
    torch.testing.assert_close(ours(IDS)[0], merged(IDS)[0], **CLOSE)
