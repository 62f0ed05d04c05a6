"""Adapters against PEFT: both packages load both kinds, with equal outputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

peft = pytest.importorskip("peft")
import transformers  # noqa: E402

from tests.parity.closeness import assert_equal_in_fp32  # noqa: E402
from trainer.models.adapters.adapter_files import saved_names  # noqa: E402
from trainer.models.adapters.lora_settings import LoRASettings  # noqa: E402
from trainer.models.auto import TASKS, AutoConfig  # noqa: E402
from trainer.models.family import find_family  # noqa: E402

THEIRS = {
    "base": (transformers.AutoModel, "FEATURE_EXTRACTION"),
    "causal_lm": (transformers.AutoModelForCausalLM, "CAUSAL_LM"),
    "masked_lm": (transformers.AutoModelForMaskedLM, None),
    "sequence_classification": (transformers.AutoModelForSequenceClassification, "SEQ_CLS"),
    "token_classification": (transformers.AutoModelForTokenClassification, "TOKEN_CLS"),
    "seq2seq_lm": (transformers.AutoModelForSeq2SeqLM, "SEQ_2_SEQ_LM"),
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
    ("gemma2", "causal_lm", "all-linear"),
    ("phi3", "causal_lm", "all-linear"),
    ("phi3", "causal_lm", ["qkv_proj", "gate_up_proj"]),
    ("olmo2", "causal_lm", "all-linear"),
    ("glm4", "causal_lm", ["q_proj", "gate_up_proj"]),
    ("cohere2", "causal_lm", "all-linear"),
    ("bert", "base", "all-linear"),
    ("bert", "masked_lm", ["query", "attention.output.dense"]),
    ("bert", "sequence_classification", "all-linear"),
    ("distilbert", "sequence_classification", ["q_lin", "lin1"]),
    ("roberta", "token_classification", ["key", "dense"]),
    ("modernbert", "token_classification", ["Wqkv", "Wo"]),
    ("albert", "sequence_classification", ["query", "ffn", "embedding_hidden_mapping_in"]),
    ("electra", "token_classification", ["query", "embeddings_project"]),
    ("mpnet", "sequence_classification", "all-linear"),
    ("deberta-v2", "sequence_classification", ["query_proj", "attention.output.dense"]),
    ("deberta-v2", "token_classification", ["value_proj", "intermediate.dense"]),
    ("mbart", "seq2seq_lm", "all-linear"),
    ("mbart", "seq2seq_lm", ["encoder_attn.q_proj", "fc2"]),
]
DEBERTA = {
    **{"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 4},
    **{"max_relative_positions": 9, "norm_rel_ebd": "layer_norm"},
}
MPNET = {"bos_token_id": 0, "pad_token_id": 1}
MBART = {"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
IDS = torch.randint(3, 99, (2, 7), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def base(tmp_path: Path, family: str, task: str) -> Path:
    """The folder of a random base without a classifier's head, except for two families.

    PEFT trains their classifier but not the layers before it in the head.
    """
    torch.manual_seed(0)
    has_head = task.endswith("lm") or family in ("modernbert", "deberta-v2")
    known = find_family(family)
    grouped = {"num_key_value_heads": 2, "head_dim": 8}
    sizes = SIZES | {name: n for name, n in grouped.items() if name in known.defaults}
    sizes |= {"deberta-v2": DEBERTA, "mbart": MBART, "mpnet": MPNET}.get(family, {})
    entries = {known.synonyms.get(name, name): value for name, value in sizes.items()}
    model = TASKS[task if has_head else "base"].from_config(
        AutoConfig({"model_type": family, **entries})
    )
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def outputs_of(model: Any) -> torch.Tensor:
    config = getattr(model, "config", None)
    decoder = {"decoder_input_ids": IDS} if getattr(config, "is_encoder_decoder", False) else {}
    return model(input_ids=IDS, **decoder)[0]


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
    wanted = outputs_of(ours)
    theirs = peft.PeftModel.from_pretrained(
        THEIRS[task][0].from_pretrained(base), tmp_path / "ours"
    ).eval()
    assert_equal_in_fp32(outputs_of(theirs), wanted)
    adapted = [name for name, _ in theirs.named_parameters() if "lora_A" in name]
    assert len(adapted) == sum("lora_A" in name for name, _ in ours.named_parameters())
    theirs.save_pretrained(tmp_path / "theirs")
    assert torch.equal(outputs_of(TASKS[task].from_pretrained(tmp_path / "theirs")), wanted)


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
    assert_equal_in_fp32(outputs_of(ours), outputs_of(theirs))
    ours.merge_lora()
    merged = theirs.merge_and_unload()
    assert_equal_in_fp32(outputs_of(ours), outputs_of(merged))


@pytest.mark.parametrize(
    ("family", "task"), [("llama", "causal_lm"), ("gpt2", "causal_lm"), ("bert", "base")]
)
def test_dora_has_pefts_outputs_and_gradients(base: Path, task: str, tmp_path: Path) -> None:
    """With and without biases, with both weight layouts, saved and merged by both packages."""
    ours = TASKS[task].from_pretrained(base)
    plain = outputs_of(ours)
    ours.add_lora(LoRASettings(rank=4, alpha=6, dora=True))
    torch.testing.assert_close(outputs_of(ours), plain, rtol=1e-6, atol=1e-6)
    randomize(ours)
    ours.save_pretrained(tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(
        THEIRS[task][0].from_pretrained(base), tmp_path / "ours", is_trainable=True
    ).eval()
    outputs = [outputs_of(model) for model in (ours, theirs)]
    assert_equal_in_fp32(*outputs)
    for output in outputs:
        output.square().mean().backward()
    gradients = {
        name.replace(".default", ""): p.grad
        for name, p in theirs.named_parameters()
        if p.grad is not None
    }
    found = {saved: ours.get_parameter(own).grad for own, saved in saved_names(ours).items()}
    unlike = {
        name
        for name in gradients
        if name.removesuffix(".weight") not in found and name not in found
    }
    assert not unlike and len(found) == len(gradients)
    for name, gradient in gradients.items():
        known = found.get(name, found.get(name.removesuffix(".weight")))
        torch.testing.assert_close(known, gradient, rtol=1e-3, atol=1e-5)
    theirs.save_pretrained(tmp_path / "theirs")
    again = TASKS[task].from_pretrained(tmp_path / "theirs")
    assert torch.equal(outputs_of(again), outputs[0])
    again.merge_lora()
    assert_equal_in_fp32(outputs_of(again), outputs[0])
    assert_equal_in_fp32(outputs_of(theirs.merge_and_unload()), outputs[0])


@pytest.mark.parametrize(
    ("family", "task"), [("llama", "causal_lm"), ("gpt2", "causal_lm"), ("bert", "base")]
)
def test_pissa_has_pefts_outputs_and_gradients(base: Path, task: str, tmp_path: Path) -> None:
    """PEFT puts the product into the weights, we keep it separate; both save a plain adapter."""
    model, task_type = THEIRS[task]
    config = peft.LoraConfig(
        r=3,
        lora_alpha=5,
        target_modules="all-linear",
        task_type=task_type,
        init_lora_weights="pissa",
    )
    theirs = peft.get_peft_model(model.from_pretrained(base), config).eval()
    ours = TASKS[task].from_pretrained(base)
    ours.add_lora(LoRASettings(rank=3, alpha=5, init="pissa"))
    names = saved_names(ours)
    there = {n.replace(".default", ""): p for n, p in theirs.named_parameters()}
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if parameter.requires_grad:  # the signs of singular vectors are free
                parameter.copy_(there[names[name]])
                start = name.replace("lora_", "start_")
                ours.get_parameter(start).copy_(parameter)
                parameter.add_(0.1 * torch.randn_like(parameter))
                there[names[name]].copy_(parameter)
    outputs = [outputs_of(each) for each in (ours, theirs)]
    torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-4)
    weights = torch.randn(outputs[0].shape)
    for each in outputs:
        (each * weights).sum().backward()
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            wanted = there[names[name]].grad
            assert (parameter.grad - wanted).norm() <= 1e-3 * wanted.norm(), name
    ours.save_pretrained(tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(model.from_pretrained(base), tmp_path / "ours").eval()
    torch.testing.assert_close(outputs_of(again), outputs[0], rtol=1e-3, atol=1e-4)
    loaded = TASKS[task].from_pretrained(tmp_path / "ours")
    torch.testing.assert_close(outputs_of(loaded), outputs[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("family", "task"), [("t5", "seq2seq_lm"), ("bart", "seq2seq_lm")])
def test_embeddings_that_modules_share_are_saved_for_each(
    family: str, task: str, tied: bool, tmp_path: Path
) -> None:
    """An encoder-decoder's embeddings trained in full: PEFT replaces each module by its own copy.

    T5's names have no prefix.
    """
    known = find_family(family)
    sizes = {**SIZES, "num_decoder_layers": 2, "decoder_start_token_id": 0, "d_kv": 8}
    sizes |= {"decoder_attention_heads": 4, "decoder_ffn_dim": 48, "decoder_layers": 2}
    entries = {known.synonyms.get(name, name): value for name, value in sizes.items()}
    config = AutoConfig({"model_type": family, **entries, "tie_word_embeddings": tied})
    TASKS[task].from_config(config).save_pretrained(tmp_path / "base")
    ours = TASKS[task].from_pretrained(tmp_path / "base")
    ours.add_lora(LoRASettings(rank=4, modules_to_save=["shared"]))
    randomize(ours)
    ours.save_pretrained(tmp_path / "saved")
    again = TASKS[task].from_pretrained(tmp_path / "saved")
    assert torch.equal(outputs_of(again), outputs_of(ours))
    assert again.lora is not None and ours.lora is not None
    assert again.lora.whole == ours.lora.whole == ("body.embeddings.token.weight",)
    base = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "saved").eval()
    assert_equal_in_fp32(outputs_of(theirs), outputs_of(ours))
