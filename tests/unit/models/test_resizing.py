"""Resized vocabularies: old rows are unchanged, ties are kept, and the config follows."""

import pytest
import torch

from trainer.errors import InputError
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.auto import TASKS, AutoConfig, AutoModelForMaskedLM

SIZES = {
    "model_type": "roberta",
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 12,
}
IDS = torch.arange(4, 12).view(2, 4)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return AutoModelForMaskedLM.from_config(AutoConfig(SIZES)).eval()


@pytest.mark.parametrize(
    ("size", "multiple", "rows"), [(41, None, 41), (33, 8, 40), (13, None, 13)]
)
def test_rows_that_stay_keep_their_bits(model, tmp_path, size, multiple, rows):
    model.head.bias.data.normal_()
    old, bias = model.get_input_embeddings().weight.detach().clone(), model.head.bias.clone()
    with torch.no_grad():
        before = model(IDS).logits
    embeddings = model.resize_token_embeddings(size, pad_to_multiple_of=multiple)
    kept = min(rows, 30)
    assert embeddings is model.get_input_embeddings() and embeddings.weight.shape == (rows, 16)
    assert torch.equal(embeddings.weight[:kept], old[:kept])
    assert torch.equal(model.head.bias[:kept], bias[:kept]) and not model.head.bias[kept:].any()
    assert model.config.vocab_size == embeddings.num_embeddings == rows
    fresh = embeddings.weight[kept:]
    assert (fresh != 0).all() and (fresh.abs() < 0.12).all()
    with torch.no_grad():
        after = model(IDS).logits
    torch.testing.assert_close(after[..., :kept], before[..., :kept])
    if rows > 30:
        model.train()(torch.full((1, 3), rows - 1), labels=torch.full((1, 3), 30)).loss.backward()
        assert embeddings.weight.grad.abs().sum() > 0
    model.save_pretrained(tmp_path)
    back = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert all(map(torch.equal, back.parameters(), model.parameters()))


def test_without_a_size_only_the_multiple_counts(model):
    weight = model.get_input_embeddings().weight.clone()
    assert torch.equal(model.resize_token_embeddings().weight, weight)
    assert model.resize_token_embeddings(pad_to_multiple_of=16).num_embeddings == 32


def test_type_and_frozen_state_are_kept(model):
    model.to(torch.bfloat16)
    model.get_input_embeddings().requires_grad_(False)
    weight = model.resize_token_embeddings(35).weight
    assert weight.dtype == torch.bfloat16 and not weight.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "new_size: found 0; accepted: an integer of at least 1"),
        (("30",), "new_size: found '30'"),
        ((40, 0), "pad_to_multiple_of: found 0"),
        ((1,), "pad_token_id: found 1; accepted: null, or an id below vocab_size (1)"),
    ],
)
def test_a_size_that_is_none_is_refused_and_changes_nothing(model, arguments, message):
    with pytest.raises(InputError) as caught:
        model.resize_token_embeddings(*arguments)
    assert message in str(caught.value)
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == 30
    assert model(IDS).logits.shape == (2, 4, 30)


def test_a_refused_size_keeps_the_trained_rows(model):
    model.add_lora(LoRASettings(rank=2, trainable_tokens=[3, 5]))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    with pytest.raises(InputError, match="pad_token_id"):
        model.resize_token_embeddings(1)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == trained
    assert any(name.endswith("token_rows") for name in trained)


@pytest.mark.parametrize(
    ("family", "head", "entries"),
    [
        ("roberta", "masked_lm", {}),
        ("roberta", "masked_lm", {"tie_word_embeddings": False}),
        ("llama", "causal_lm", {}),
    ],
)
def test_the_heads_of_several_tasks_follow(family, head, entries, tmp_path):
    heads = {"a": {"head": "sequence_classification"}, "b": {"head": head}}
    config = AutoConfig({**SIZES, "model_type": family, "task_heads": heads, **entries})
    model = TASKS["multi_task"].from_config(config).eval()
    alone, kept = model.part("b"), model.part("b").get_output_embeddings().weight.clone()
    with pytest.raises(InputError, match="^value: found 33 tokens"):
        model.set_input_embeddings(torch.nn.Embedding(33, 16))
    torch.manual_seed(1)
    model.resize_token_embeddings(33)
    assert torch.equal(alone.get_output_embeddings().weight[:30], kept)
    assert model.part("b")(IDS).logits.shape == (2, 4, 33)
    if family == "roberta" and not entries:
        assert not alone.head.bias.any()
    model.save_pretrained(tmp_path)
    again = TASKS["multi_task"].from_pretrained(tmp_path).part("b")
    assert torch.equal(again(IDS).logits, model.part("b")(IDS).logits)
