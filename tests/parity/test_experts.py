"""Mixtures of experts: file formats, adapters, and sums in a fixed order."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.parity.test_decoders import inputs_of, random_reference
from trainer.devices.context import share_context
from trainer.errors import InputError
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.auto import AutoConfig, AutoModel, AutoModelForCausalLM
from trainer.settings import TrainSettings
from trainer.tasks.losses import next_token_loss

FAMILIES = ("mixtral", "qwen3_moe")
GATE = {
    "mixtral": "model.layers.0.block_sparse_moe.experts.3.w3.weight",
    "qwen3_moe": "model.layers.0.mlp.experts.3.up_proj.weight",
}


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request, tmp_path_factory):
    """(family, transformers' model, the folder that it saved)."""
    folder = tmp_path_factory.mktemp("experts")
    theirs = random_reference(request.param)
    theirs.save_pretrained(folder)
    return request.param, theirs, folder


def test_joined_experts_are_read_as_separate_ones(saved, tmp_path):
    _, theirs, folder = saved
    theirs.config.save_pretrained(tmp_path)
    joined = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    assert any(name.endswith("mlp.experts.gate_up_proj") for name in joined)
    save_file(joined, tmp_path / "model.safetensors", {"format": "pt"})
    models = [AutoModelForCausalLM.from_pretrained(place) for place in (folder, tmp_path)]
    separate, found = (dict(model.named_parameters()) for model in models)
    assert all(torch.equal(found[name], separate[name]) for name in separate)


def test_the_text_of_greedy_search_equals(saved):
    _, theirs, folder = saved
    ours, ids = AutoModelForCausalLM.from_pretrained(folder), inputs_of()["input_ids"]
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    assert torch.equal(ours.generate(ids, **options), theirs.generate(ids, **options))


@pytest.mark.parametrize("fault", ["missing", "another shape"])
def test_incomplete_experts_are_refused_in_one_line(saved, fault, tmp_path):
    family, theirs, folder = saved
    theirs.config.save_pretrained(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    wrong = tensors.pop(GATE[family])
    if fault == "another shape":
        tensors[GATE[family]] = wrong[:, :-1].contiguous()
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError) as caught:
        AutoModelForCausalLM.from_pretrained(tmp_path)
    parts = ["mlp.experts.3.", "is missing"] if fault == "missing" else ["experts of shapes"]
    assert all(part in str(caught.value) for part in parts) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "parts"),
    [
        ({"num_experts_per_tok": 6}, ["num_experts_per_tok: found 6", "1 to 5"]),
        ({"num_experts_per_tok": 0}, ["num_experts_per_tok: found 0"]),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_wrong_configs_are_refused_in_one_line(family, entries, parts):
    entries = {"num_experts_per_tok": 2, "num_experts": 5, **entries}
    if family == "mixtral":
        entries["num_local_experts"] = entries.pop("num_experts")
    with pytest.raises(InputError) as caught:
        AutoModel.from_config(AutoConfig({"model_type": family, **entries}))
    assert "\n" not in str(caught.value) and all(part in str(caught.value) for part in parts)


def test_both_names_of_the_number_of_experts_are_read():
    for name in ("num_experts", "num_local_experts"):
        config = AutoConfig({"model_type": "qwen3_moe", name: 5, "num_experts_per_tok": 2})
        assert config.num_experts == 5
        assert "num_local_experts" not in config.to_dict()
    assert transformers.Qwen3MoeConfig(num_experts=5).num_local_experts == 5


def test_adapters_of_the_attention_leave_the_experts_alone(saved):
    _, _, folder = saved
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.add_lora(LoRASettings(rank=2))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and not any("router" in name or "experts" in name for name in trained)
    model(**inputs_of(), labels=inputs_of()["input_ids"]).loss.backward()
    assert all(model.get_parameter(name).grad is not None for name in trained)


def test_an_expert_without_tokens_has_a_gradient_of_zeros(saved):
    _, _, folder = saved
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.full((1, 2), 7)
    model(ids, labels=ids).loss.backward()
    gradient = model.body.layers[0].feed_forward.experts.down_proj.weight.grad
    unused = gradient.abs().amax((1, 2)) == 0
    assert unused.any() and not unused.all()


@pytest.mark.parametrize("variant", ["mixtral", "qwen3_moe", "qwen3_moe, normalized"])
def test_the_routers_loss_of_a_sequence_equals(variant, tmp_path):
    theirs = random_reference(variant, output_router_logits=True, router_aux_loss_coef=0.5)
    theirs.save_pretrained(tmp_path)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = inputs_of()["input_ids"][:1]
    losses = [model(ids, labels=ids).loss for model in (ours, theirs)]
    torch.testing.assert_close(*losses)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, output_router_logits=False)
    assert losses[0] - plain(ids, labels=ids).loss > 0.4
    with torch.no_grad():  # the text alone
        torch.testing.assert_close(ours(ids, labels=ids).loss, plain(ids, labels=ids).loss)
    for loss in losses:
        loss.backward()
    first = next(n for n, each in enumerate(theirs.model.layers) if hasattr(each.mlp, "gate"))
    router = f"body.layers.{first}.feed_forward.router.weight"
    gradient = theirs.model.layers[first].mlp.gate.weight.grad
    torch.testing.assert_close(ours.get_parameter(router).grad, gradient, rtol=1e-4, atol=1e-6)


def assert_any_split_gives_one_gradient(model):
    """The gradients of all trained parameters, for three texts in one, two and three batches."""
    trained = [p for p in model.parameters() if p.requires_grad]
    texts = [torch.arange(3, 3 + n) for n in (9, 4, 6)]
    found = []
    for groups in ([texts], [texts[:1], texts[1:]], [[text] for text in texts]):
        model.zero_grad()
        for group in groups:
            ids, lengths = torch.cat(group), torch.tensor([len(text) for text in group])
            outputs = model(ids, sequence_lengths=lengths)
            next_token_loss(outputs.projection, ids).sum.backward()
        found.append(torch.cat([p.grad.flatten() for p in trained]))
    for other in found[1:]:
        assert (other - found[0]).norm() <= 1e-12 * found[0].norm()


@pytest.mark.parametrize("recompute", [False, True])
def test_any_split_gives_the_routers_one_gradient(saved, recompute):
    """Also if layers run again in the backward pass, in which nothing is kept."""
    _, _, folder = saved
    options = {"output_router_logits": True, "router_aux_loss_coef": 0.5}
    model = AutoModelForCausalLM.from_pretrained(folder, **options).double().train()
    if recompute:
        model.gradient_checkpointing_enable()
    assert_any_split_gives_one_gradient(model)
    assert all(
        layer.feed_forward.routed is None
        for layer in model.body.layers
        if hasattr(layer.feed_forward, "routed")
    )


def test_the_routers_loss_needs_whole_texts(saved):
    _, _, folder = saved
    model = AutoModelForCausalLM.from_pretrained(folder, output_router_logits=True)
    with pytest.raises(InputError, match="context_parallel: found 2 with output_router_logits"):
        share_context(model, SimpleNamespace(world_size=2), 2, TrainSettings())
