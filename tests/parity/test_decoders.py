"""Every decoder family against transformers: numbers, gradients, windows, rotary kinds, files."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers.models.cohere2 import modeling_cohere2

from tests.parity.closeness import assert_equal_in_fp32
from trainer.errors import InputError
from trainer.models.auto import TASKS, AutoConfig, AutoModel, AutoModelForCausalLM
from trainer.models.blocks.dropout_hash import token_keys
from trainer.models.family import find_family, native_families

THEIRS = {
    "base": transformers.AutoModel,
    "causal_lm": transformers.AutoModelForCausalLM,
    "sequence_classification": transformers.AutoModelForSequenceClassification,
    "token_classification": transformers.AutoModelForTokenClassification,
}
LAYERS, WORDS, PAD, WIDTH = 3, 99, 0, 11
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VARIANTS = {
    "llama": {"num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
    "llama, tied": {"tie_word_embeddings": True, "hidden_act": "gelu"},
    "mistral": {"num_key_value_heads": 1, "sliding_window": 5},
    "qwen2": {
        "num_key_value_heads": 4,
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 1,
    },
    "qwen3": {"num_key_value_heads": 2, "head_dim": 12},
    "gpt2": {},
    "gemma": {"num_key_value_heads": 1, "head_dim": 12},
    "gemma2": {
        "num_key_value_heads": 2,
        "head_dim": 12,
        "query_pre_attn_scalar": 7,
        "sliding_window": 4,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 2.0,
    },
    "gemma3_text": {
        "num_key_value_heads": 2,
        "head_dim": 12,
        "query_pre_attn_scalar": 7,
        "sliding_window": 4,
        "sliding_window_pattern": 2,
        "final_logit_softcapping": 2.0,
    },
    "phi3": {"num_key_value_heads": 2, "sliding_window": 5},
    "phi3, half of the channels": {"partial_rotary_factor": 0.5},
    "olmo2": {"num_key_value_heads": 2},
    "granite": {
        "num_key_value_heads": 2,
        "embedding_multiplier": 3.0,
        "logits_scaling": 4.0,
        "residual_multiplier": 0.3,
        "attention_multiplier": 0.2,
    },
    "smollm3": {
        "num_key_value_heads": 2,
        "no_rope_layers": [1, 0, 1],
        "use_sliding_window": True,
        "sliding_window": 4,
    },
    "glm4": {"num_key_value_heads": 2, "head_dim": 12, "eos_token_id": [2, 5]},
    "mixtral": {"num_key_value_heads": 2, "num_experts": 5, "sliding_window": 4},
    "qwen3_moe": {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "moe_intermediate_size": 20,
        "num_experts": 5,
        "num_experts_per_tok": 3,
        "mlp_only_layers": [1],
    },
    "qwen3_moe, normalized": {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "moe_intermediate_size": 20,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "decoder_sparse_step": 2,
    },
    "cohere2": {"num_key_value_heads": 2, "sliding_window": 4, "sliding_window_pattern": 2},
}
"""A family and what its small model has beside SIZES; windows are narrower than the inputs."""
MASKS = {
    "none": None,
    "right": [[1] * 11, [1] * 4 + [0] * 7, [1] * 8 + [0] * 3],
    "left": [[0] * 3 + [1] * 8, [1] * 11, [0] * 10 + [1]],
    "holes": [[1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 0], [0, 1, 0, 1] + [0] * 7, [1] * 11],
}
NOT_BUILT = ("past_key_values", "cross_attentions")
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def random_reference(variant, task="causal_lm", **config):
    """A small transformers model whose weights are far from their initial values."""
    family = variant.split(",")[0]
    sizes = {**SIZES, **VARIANTS[variant], **config}
    names = find_family(family).synonyms
    sizes = {names.get(name, name): value for name, value in sizes.items()}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **sizes)
    model = THEIRS[task].from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def both(folder, theirs, task="causal_lm", **options):
    theirs.save_pretrained(folder)
    return TASKS[task].from_pretrained(folder, **options), theirs


LLAMAS_RELATIVES = ("gemma", "gemma2", "phi3", "olmo2", "granite", "smollm3", "glm4", "cohere2")
LLAMAS_RELATIVES += ("mixtral", "qwen3_moe")
"""Families whose classifiers are Llama's over another body, and compared by their names alone."""


def heads_of(variant):
    """The tasks for which transformers has a model of this family."""
    config = type(transformers.AutoConfig.for_model(variant.split(",")[0]))
    return [task for task, auto in THEIRS.items() if config in auto._model_mapping]


def compared(variant):
    """The tasks whose outputs are compared."""
    relative = variant.split(",")[0] in LLAMAS_RELATIVES
    return ["causal_lm"] if relative else heads_of(variant)


@pytest.fixture(
    scope="module", params=[(v, task) for v in VARIANTS for task in compared(v)], ids=str
)
def pair(request, tmp_path_factory):
    """(ours, theirs, folder that transformers saved), with equal random weights."""
    variant, task = request.param
    folder = tmp_path_factory.mktemp("model")
    labels = {} if task in ("base", "causal_lm") else {"num_labels": 3}
    return *both(folder, random_reference(variant, task, **labels), task), folder


def inputs_of(mask=None):
    """Three sequences of 11 tokens; transformers' classifiers recognize pads by their id."""
    torch.manual_seed(1)
    inputs = {"input_ids": torch.randint(3, WORDS, (3, WIDTH))}
    if mask is not None:
        inputs["attention_mask"] = torch.tensor(mask)
        inputs["input_ids"] *= inputs["attention_mask"]
    return inputs


def labels_of(task, inputs):
    """Random labels; none for pads and for the first token of a sequence."""
    torch.manual_seed(2)
    if task == "sequence_classification":
        return torch.tensor([2, 0, 1])
    seen = inputs.get("attention_mask", torch.ones(3, WIDTH)).bool()
    classes = WORDS if task == "causal_lm" else 3
    labels = torch.randint(classes, (3, WIDTH))
    return labels.masked_fill(~seen | (seen.cumsum(1) == 1) | (torch.rand(3, WIDTH) < 0.3), -100)


@pytest.mark.parametrize("padding", MASKS)
def test_every_output_equals(pair, padding):
    ours, theirs, _ = pair
    inputs = inputs_of(MASKS[padding])
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        found, wanted = ours(**inputs, **asked), theirs(**inputs, **asked)
        without = ours(**inputs)  # another path, without attentions
    seen = inputs.get("attention_mask", torch.ones(3, WIDTH)).float()
    name = "last_hidden_state" if ours.task == "base" else "logits"
    mask = 1 if ours.task == "sequence_classification" else seen[:, :, None]
    assert found.keys() == [key for key in wanted if key not in NOT_BUILT]
    for outputs in (found, without):
        assert_equal_in_fp32(outputs[name], wanted[name] * mask)
    assert len(found.hidden_states) == len(wanted.hidden_states) == LAYERS + 1
    for state, reference in zip(found.hidden_states, wanted.hidden_states, strict=True):
        assert_equal_in_fp32(state, reference * seen[:, :, None])
    assert len(found.attentions) == len(wanted.attentions) == LAYERS
    for weights, reference in zip(found.attentions, wanted.attentions, strict=True):
        assert_equal_in_fp32(weights, reference * seen[:, None, :, None])


class ExactNorm(nn.Module):
    """transformers' norm, which computes in fp32, in the type of the model."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.kind = norm.weight, type(norm).__name__
        self.eps = norm.eps if self.kind.startswith("Gemma") else norm.variance_epsilon

    def forward(self, x):
        if self.kind.endswith("LayerNorm"):
            return F.layer_norm(x, self.weight.shape, self.weight, eps=self.eps)
        gain = 1 + self.weight if self.kind.startswith("Gemma") else self.weight
        return F.rms_norm(x, self.weight.shape, gain, self.eps)


class ExactRouter(nn.Module):
    """transformers' router, whose probabilities are in fp32, in the type of the model."""

    def __init__(self, router):
        super().__init__()
        self.weight, self.top_k = router.weight, router.top_k
        self.normalizes = getattr(router, "norm_topk_prob", True)

    def forward(self, x):
        logits = F.linear(x.reshape(-1, x.shape[-1]), self.weight)
        weights, experts = logits.softmax(-1).topk(self.top_k, -1)
        if self.normalizes:
            weights = weights / weights.sum(-1, keepdim=True)
        return logits, weights, experts


def attend_exactly(module, query, key, value, attention_mask, scaling, softcap=None, **_):
    """transformers' eager attention, whose softmax is in fp32, in the type of the model."""
    shared = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(shared, 1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = (scores + attention_mask).softmax(-1)
    return (weights @ value).transpose(1, 2), None


transformers.AttentionInterface.register("exact", attend_exactly)
transformers.AttentionMaskInterface.register("exact", transformers.masking_utils.eager_mask)


def rotate_exactly(q, k, cos, sin):
    """Cohere's, which computes in fp32, in the type of the model."""
    turned = modeling_cohere2.rotate_half
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return q * cos + turned(q) * sin, k * cos + turned(k) * sin


def exact(theirs):
    """A copy with every part in float64."""
    theirs = copy.deepcopy(theirs).double()
    family = theirs.config.model_type
    theirs.set_attn_implementation("exact" if family != "gpt2" else "sdpa")
    if family in ("mixtral", "qwen3_moe"):
        theirs.set_experts_implementation("eager")  # the grouped one has no float64
    for module in list(theirs.modules()):
        if hasattr(module, "scalar_embed_scale"):  # its buffer was rounded to fp32
            module.embed_scale = torch.tensor(module.scalar_embed_scale, dtype=torch.float64)
        for name, child in list(module.named_children()):
            kind = type(child).__name__
            if kind.endswith("TopKRouter"):
                setattr(module, name, ExactRouter(child))
            if kind.endswith("RMSNorm") or kind.startswith("Cohere2LayerNorm"):
                setattr(module, name, ExactNorm(child))
    return theirs


@pytest.fixture(autouse=True)
def exact_rotation_of_cohere(monkeypatch):
    """Rotation in float64; in fp32 nothing changes."""
    monkeypatch.setattr(modeling_cohere2, "apply_rotary_pos_emb", rotate_exactly)


def their_loss(model, task, inputs, labels):
    """The loss of transformers' logits, because transformers computes its loss in fp32."""
    logits = model(**inputs).logits
    if task == "causal_lm":
        logits, labels = logits[:, :-1], labels[:, 1:]
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))


def assert_equal_gradients(ours, theirs):
    references = dict(theirs.named_parameters(remove_duplicate=False))
    pairs = [(name, p, references[ours.hub_name(name)]) for name, p in ours.named_parameters()]
    assert {id(reference) for _, _, reference in pairs} == {id(p) for p in theirs.parameters()}
    for name, parameter, reference in pairs:
        torch.testing.assert_close(
            parameter.grad, reference.grad, **EXACT, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_loss_and_gradients_equal(pair, padding):
    """In float64, without holes in the mask, at which transformers predicts a token from a pad."""
    _, theirs, folder = pair
    task = pair[0].task
    if task == "base":
        return
    ours, theirs = TASKS[task].from_pretrained(folder, dtype="float64"), exact(theirs)
    inputs = inputs_of(MASKS[padding])
    labels = labels_of(task, inputs)
    found, wanted = ours(**inputs, labels=labels).loss, their_loss(theirs, task, inputs, labels)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    found.backward()
    wanted.backward()
    assert_equal_gradients(ours, theirs)


def test_flat_equals_padded_equals_alone(pair):
    """Outputs, loss and gradients are equal in float64: sequences never see each other."""
    folder, task = pair[2], pair[0].task
    ours = TASKS[task].from_pretrained(folder, dtype="float64")
    padded = inputs_of(MASKS["right"])
    seen = padded.pop("attention_mask").bool()
    lengths, ids = seen.sum(1), padded["input_ids"][seen]
    answers, flat_answers = {}, {}
    if task != "base":
        answers["labels"] = labels = labels_of(task, {"attention_mask": seen})
        flat_answers["labels"] = labels if task == "sequence_classification" else labels[seen]
    found = ours(ids, sequence_lengths=lengths, **flat_answers)
    wanted = ours(padded["input_ids"], seen, **answers)
    name = "last_hidden_state" if task == "base" else "logits"
    rows = wanted[name] if task == "sequence_classification" else wanted[name][seen]
    torch.testing.assert_close(found[name], rows, **EXACT)
    alone = [
        ours(row[None, :length])[name]
        for row, length in zip(*(padded["input_ids"], lengths), strict=True)
    ]
    alone = torch.cat(alone if task == "sequence_classification" else [x[0] for x in alone])
    torch.testing.assert_close(found[name], alone, **EXACT)
    if task != "base":
        parameters = list(ours.parameters())
        gradients = [torch.autograd.grad(out.loss, parameters) for out in (found, wanted)]
        for flat, reference in zip(*gradients, strict=True):
            torch.testing.assert_close(flat, reference, **EXACT)


ROPES = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24},
    "yarn, all numbers": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 20,
        "beta_fast": 4.0,
        "beta_slow": 0.5,
        "mscale": 0.7,
        "mscale_all_dim": 0.3,
        "truncate": False,
    },
    "yarn, attention factor": {
        "rope_type": "yarn",
        "factor": 2.0,
        "attention_factor": 1.3,
        "original_max_position_embeddings": 24,
    },
}


def longrope(share):
    size = int(8 * share) // 2
    rope = {
        "rope_theta": 500.0,
        "rope_type": "longrope",
        "partial_rotary_factor": share,
        "short_factor": [1.0 + 0.1 * n for n in range(size)],
        "long_factor": [2.0 + n for n in range(size)],
        "original_max_position_embeddings": 14,
    }
    return random_reference("phi3", rope_parameters=rope, original_max_position_embeddings=14)


def test_texts_that_outgrow_the_short_factors_are_computed_again(tmp_path):
    """During generation, as in transformers; a row does not depend on the lengths of others."""
    ours, theirs = both(tmp_path, longrope(1.0))
    rows = [torch.randint(3, WORDS, (1, length)) for length in (9, 14, 3, 16)]
    options = {"max_new_tokens": 8, "eos_token_id": None}
    alone = [ours.generate(row, **options)[0] for row in rows]
    for row, found in zip(rows, alone, strict=True):
        assert torch.equal(found, theirs.generate(row, do_sample=False, **options)[0])
    width = max(row.shape[1] for row in rows)
    padded = torch.cat([F.pad(row, (width - row.shape[1], 0), value=PAD) for row in rows])
    together = ours.generate(padded, padded != PAD, **options)
    for row, found, several in zip(rows, alone, together, strict=True):
        assert torch.equal(several[width - row.shape[1] :], found)
    ids = torch.cat((rows[0], rows[2]), 1)  # 12 tokens, then 8 more that are appended
    with torch.no_grad():
        past = ours(ids, use_cache=True).past_key_values
        found = ours(ids[:, :8], past_key_values=past, output_hidden_states=True)
        whole = ours(torch.cat((ids, ids[:, :8]), 1), output_hidden_states=True)
    assert_equal_in_fp32(found.logits, whole.logits[:, 12:])
    for state, wanted in zip(found.hidden_states, whole.hidden_states, strict=True):
        assert_equal_in_fp32(state, wanted[:, 12:])


@pytest.mark.parametrize("kind", ["longrope", "su", "yarn"])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_longrope_equals(kind, share, tmp_path):
    """For a text of the trained length and a longer one, alone and together in one batch."""
    theirs = longrope(share)
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_parameters"]["rope_type"] = kind
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.randint(3, WORDS, (1, 24))
    with torch.no_grad():
        short, long = (theirs(ids[:, :length]).logits for length in (14, 15))
        assert_equal_in_fp32(ours(ids[:, :14]).logits, short)
        assert_equal_in_fp32(ours(ids[:, :15]).logits, long)
        assert (short - long[:, :14]).abs().max() > 0.1
        both = ours(torch.cat((ids[0, :14], ids[0, :15])), sequence_lengths=torch.tensor([14, 15]))
    assert_equal_in_fp32(both.logits, torch.cat((short[0], long[0])))


@pytest.mark.parametrize("spelling", ["rope_parameters", "older names"])
def test_the_two_kinds_of_positions_of_gemma3_equal(spelling, tmp_path):
    """With scaled global layers; transformers reads its own config back from what we save."""
    scaling = {"rope_type": "linear", "factor": 3.0}
    rope = {
        "full_attention": {"rope_theta": 700.0, **scaling},
        "sliding_attention": {"rope_theta": 50.0, "rope_type": "default"},
    }
    theirs = random_reference("gemma3_text", rope_parameters=rope)
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if spelling == "older names":
        del config["rope_parameters"], config["layer_types"]
        config |= {"rope_theta": 700.0, "rope_local_base_freq": 50.0, "rope_scaling": scaling}
        config["sliding_window_pattern"] = 2
        (tmp_path / "config.json").write_text(json.dumps(config))
    ours = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.randint(3, WORDS, (2, 20))
    ours.save_pretrained(tmp_path / "ours")
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        assert_equal_in_fp32(ours(ids).logits, theirs(ids).logits)
        assert_equal_in_fp32(back(ids).logits, theirs(ids).logits)


@pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("kind", ROPES)
def test_every_rotary_kind_equals(kind, spelling, tmp_path):
    """Config.json in the current and the older spelling; transformers can read what we save."""
    theirs = random_reference("llama", rope_parameters={**ROPES[kind], "rope_theta": 500.0})
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    if spelling == "rope_scaling":
        rope = config.pop("rope_parameters")
        config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
        rope["type"] = rope.pop("rope_type")
        config["rope_scaling"] = None if kind == "default" else rope
        file.write_text(json.dumps(config))
    ours = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.manual_seed(1)
    for length in (WIDTH, 24) + ((30,) if kind != "default" else ()):
        ids = torch.randint(3, WORDS, (2, length))
        with torch.no_grad():
            assert_equal_in_fp32(ours(ids).logits, theirs(ids).logits)
    ours.save_pretrained(tmp_path / "ours")
    back = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", attn_implementation="eager"
    )
    rope = {name: value for name, value in back.config.rope_parameters.items() if name != "type"}
    assert rope == theirs.config.rope_parameters
    with torch.no_grad():
        assert torch.equal(back(ids).logits, theirs(ids).logits)


@pytest.mark.parametrize(
    ("entries", "parts"),
    [
        ({"rope_scaling": {"rope_type": "spiral"}}, ["rope_type", "spiral", "yarn"]),
        (
            {
                "rope_scaling": {
                    "rope_type": "longrope",
                    "short_factor": [1.0],
                    "long_factor": [2.0],
                }
            },
            ["short_factor: found 1 numbers", "a list of 4 numbers"],
        ),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, ["partial_rotary_factor: found 0.5"]),
        ({"rope_scaling": {"type": "linear"}}, ["factor: missing"]),
        ({"rope_parameters": {"rope_theta": -1}}, ["rope_theta", "-1"]),
        ({"rope_parameters": 3}, ["rope_parameters", "3"]),
        ({"num_key_value_heads": 3}, ["num_key_value_heads: found 3", "divisor of the 4"]),
        ({"head_dim": "12"}, ["head_dim: found '12'"]),
        ({"hidden_size": 30}, ["30 is not divisible"]),
    ],
)
def test_wrong_configs_are_refused_in_one_line(entries, parts):
    with pytest.raises(InputError) as caught:
        AutoModel.from_config(AutoConfig({"model_type": "llama", **SIZES, **entries}))
    assert "\n" not in str(caught.value) and all(part in str(caught.value) for part in parts)


def test_rotary_models_read_beyond_their_positions_with_a_warning(tmp_path, caplog):
    ours, theirs = both(tmp_path, random_reference("llama"))
    ids = torch.randint(3, 30, (1, 30))
    with torch.no_grad():
        found, expected = (model(ids).logits for model in (ours, theirs))
        ours(ids)
        placed = torch.arange(90, 95)[None]
        moved, known = (m(ids[:, :5], position_ids=placed).logits for m in (ours, theirs))
    assert_equal_in_fp32(found, expected)
    assert_equal_in_fp32(moved, known)
    assert caplog.text.count("found a sequence of 30 tokens; accepted: up to 24") == 1
    with pytest.raises(InputError, match="position_ids: found -1; accepted: 0 or more"):
        ours(ids[:, :2], position_ids=torch.tensor([[-1, 0]]))


@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
def test_what_transformers_saves_is_loaded_and_saved_the_same(pair, tmp_path, shard_size):
    ours, theirs, _ = pair
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=shard_size)
    loaded = type(ours).from_pretrained(tmp_path / "theirs")
    loaded.save_pretrained(tmp_path / "ours", max_shard_size=shard_size)
    files = {file.name for file in (tmp_path / "ours").iterdir()}
    assert ("model.safetensors" in files) == (shard_size == "5GB")
    back, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    assert back.config.to_diff_dict() == {
        **theirs.config.to_diff_dict(),
        "architectures": back.config.architectures,
    }


def test_the_saved_tensors_are_those_that_transformers_saves(pair, tmp_path):
    """Tied embeddings are saved once."""
    ours, _, folder = pair
    ours.save_pretrained(tmp_path)
    theirs, mine = (load_file(place / "model.safetensors") for place in (folder, tmp_path))
    assert theirs.keys() == mine.keys()
    assert all(torch.equal(theirs[name], mine[name]) for name in theirs)
    configs = [json.loads((place / "config.json").read_text()) for place in (folder, tmp_path)]
    assert configs[0]["architectures"] == configs[1]["architectures"]


@pytest.mark.parametrize("family", sorted({name.split(",")[0] for name in VARIANTS}))
def test_defaults_are_transformers_own(family):
    theirs = transformers.AutoConfig.for_model(family)
    ours = AutoConfig({"model_type": family})
    for name, default in ours.family.defaults.items():
        assert default is None or getattr(theirs, name) == default, name


@pytest.mark.parametrize("variant", LLAMAS_RELATIVES)
def test_classes_have_transformers_names(variant):
    family = find_family(variant)
    for task in heads_of(variant):
        assert hasattr(transformers, family.name + family.heads[task].class_suffix)


def test_every_decoder_family_is_compared():
    decoders = {name for name in native_families() if "causal_lm" in find_family(name).heads}
    assert decoders == {name.split(",")[0] for name in VARIANTS}


def test_fresh_weights_start_as_transformers_starts_them(pair):
    """Equal constants, and normal distributions with equal standard deviations."""
    ours, theirs, _ = pair
    torch.manual_seed(1)
    reference = type(theirs)(theirs.config)
    torch.manual_seed(0)
    ours = type(ours).from_config(AutoConfig(theirs.config.to_dict()))
    wanted = dict(reference.named_parameters(remove_duplicate=False))
    for name, parameter in ours.named_parameters():
        start = wanted[ours.hub_name(name)].detach()
        if start.unique().numel() == 1:
            assert torch.equal(parameter, start), name
        else:
            assert float(parameter.detach().std()) == pytest.approx(float(start.std()), rel=0.35)


def test_several_end_tokens_and_old_buffers_are_read(tmp_path):
    theirs = random_reference("llama", eos_token_id=[2, 5])
    ours, _ = both(tmp_path, theirs)
    assert ours.config.eos_token_id == [2, 5]


@pytest.mark.parametrize("variant", VARIANTS)
def test_bf16_autocast_keeps_its_type_and_stays_close(variant, tmp_path):
    """With autocast, hidden states are in bf16; loss and gradients are close to those of fp32."""
    ours, _ = both(tmp_path, random_reference(variant))
    inputs = inputs_of(MASKS["right"])
    labels = labels_of("causal_lm", inputs)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        ours.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = ours(**inputs, labels=labels)
        assert outputs.projection.hidden.dtype == outputs.logits.dtype == dtype
        assert outputs.loss.dtype == torch.float32
        outputs.loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in ours.parameters()]))
    exact, rounded = gradients
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_attention_dropout_is_a_function_of_the_sample(variant, tmp_path):
    """Keys give the same masks in any batch; there are none in evaluation mode."""
    entry = "attn_pdrop" if variant == "gpt2" else "attention_dropout"
    ours, _ = both(tmp_path, random_reference(variant, **{entry: 0.3}), dtype="float64")
    ours.train()
    lengths, ids = torch.tensor([5, 2, 4]), torch.arange(4, 15)
    sample = torch.tensor([7, 3, 9]).repeat_interleave(lengths)
    token = torch.cat([torch.arange(length) for length in lengths])
    keys = token_keys(1, 2, sample, torch.zeros_like(sample), token)
    together = ours(ids, sequence_lengths=lengths, dropout_keys=keys).logits
    parts = zip(*(x.split(lengths.tolist()) for x in (ids, keys)), strict=True)
    alone = [
        ours(part, sequence_lengths=torch.tensor([len(part)]), dropout_keys=key).logits
        for part, key in parts
    ]
    torch.testing.assert_close(together, torch.cat(alone), **EXACT)
    assert not torch.equal(ours.eval()(ids, sequence_lengths=lengths).logits, together)


@pytest.mark.parametrize("pads", ["right", "left", "all"])
@pytest.mark.parametrize("variant", ["llama", "qwen3", "gpt2"])
def test_a_classifier_without_a_mask_knows_pads_by_their_id(variant, pads, tmp_path):
    theirs = random_reference(variant, "sequence_classification", num_labels=3)
    ours, theirs = both(tmp_path, theirs, "sequence_classification")
    ids = inputs_of()["input_ids"]
    ids[0, {"right": slice(4, None), "left": slice(0, 3), "all": slice(None)}[pads]] = PAD
    ids[1, 5] = PAD  # inside a text it counts as a token
    with torch.no_grad():
        assert_equal_in_fp32(ours(ids).logits, theirs(ids).logits)
