"""Every decoder family against transformers: numbers, gradients, windows, rotary kinds, files."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from torch import nn

from trainer.errors import InputError
from trainer.models.auto import TASKS, AutoConfig, AutoModel, AutoModelForCausalLM
from trainer.models.dropout import token_keys
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
}
"""A family and what its small model has beside SIZES; windows are narrower than the inputs."""
MASKS = {
    "none": None,
    "right": [[1] * 11, [1] * 4 + [0] * 7, [1] * 8 + [0] * 3],
    "left": [[0] * 3 + [1] * 8, [1] * 11, [0] * 10 + [1]],
    "holes": [[1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 0], [0, 1, 0, 1] + [0] * 7, [1] * 11],
}
NOT_BUILT = ("past_key_values", "cross_attentions")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def random_reference(variant, task="causal_lm", **config):
    """A small transformers model whose weights are far from what it starts with."""
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


@pytest.fixture(scope="module", params=[(v, task) for v in VARIANTS for task in THEIRS], ids=str)
def pair(request, tmp_path_factory):
    """(ours, theirs, folder that transformers saved), of equal random weights."""
    variant, task = request.param
    folder = tmp_path_factory.mktemp("model")
    labels = {} if task in ("base", "causal_lm") else {"num_labels": 3}
    return *both(folder, random_reference(variant, task, **labels), task), folder


def inputs_of(mask=None):
    """Three sequences of 11 tokens; transformers' classifiers know pads by their id."""
    torch.manual_seed(1)
    inputs = {"input_ids": torch.randint(3, WORDS, (3, WIDTH))}
    if mask is not None:
        inputs["attention_mask"] = torch.tensor(mask)
        inputs["input_ids"] *= inputs["attention_mask"]
    return inputs


def labels_of(task, inputs):
    """Random answers; none at pads, and none for a sequence's first token, which follows none."""
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
        without = ours(**inputs)  # by another path: attentions are not asked for
    seen = inputs.get("attention_mask", torch.ones(3, WIDTH)).float()
    name = "last_hidden_state" if ours.task == "base" else "logits"
    mask = 1 if ours.task == "sequence_classification" else seen[:, :, None]
    assert found.keys() == [key for key in wanted if key not in NOT_BUILT]
    for outputs in (found, without):
        torch.testing.assert_close(outputs[name], wanted[name] * mask, **CLOSE)
    assert len(found.hidden_states) == len(wanted.hidden_states) == LAYERS + 1
    for state, reference in zip(found.hidden_states, wanted.hidden_states, strict=True):
        torch.testing.assert_close(state, reference * seen[:, :, None], **CLOSE)
    assert len(found.attentions) == len(wanted.attentions) == LAYERS
    for weights, reference in zip(found.attentions, wanted.attentions, strict=True):
        torch.testing.assert_close(weights, reference * seen[:, None, :, None], **CLOSE)


class ExactNorm(nn.RMSNorm):
    """transformers' is fp32 inside, whatever the model is."""

    def __init__(self, norm):
        super().__init__(norm.weight.shape[0], eps=norm.variance_epsilon)
        self.weight = norm.weight


def exact(theirs):
    """A copy in float64, in every part."""
    theirs = copy.deepcopy(theirs).double()
    theirs.set_attn_implementation("sdpa")  # the eager softmax is fp32
    for module in list(theirs.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                setattr(module, name, ExactNorm(child))
    return theirs


def their_loss(model, task, inputs, labels):
    """Of transformers' logits: its own loss is fp32, whatever the model is."""
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
    """In float64; with holes transformers has a pad's logits predict the token after it."""
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
    """Outputs, loss and gradients, in float64: sequences never see each other."""
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


@pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("kind", ROPES)
def test_every_rotary_kind_equals(kind, spelling, tmp_path):
    """In today's spelling of config.json and the older one; saved so that transformers reads it."""
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
            torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, **CLOSE)
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
        ({"rope_scaling": {"rope_type": "longrope"}}, ["rope_type", "longrope", "yarn"]),
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


def test_a_text_beyond_the_positions_is_refused(tmp_path):
    ours, _ = both(tmp_path, random_reference("llama"))
    with pytest.raises(InputError, match="found a sequence of 25 tokens; accepted: up to 24"):
        ours(torch.ones(1, 25, dtype=torch.int64))


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
    """Tied embeddings once."""
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


def test_every_decoder_family_is_compared():
    decoders = {name for name in native_families() if "causal_lm" in find_family(name).heads}
    assert decoders == {name.split(",")[0] for name in VARIANTS}


def test_fresh_weights_start_as_transformers_starts_them(pair):
    """The same constants, and normal numbers of the same width."""
    ours, theirs, _ = pair
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
    """Training under autocast: hidden states in bf16, loss and gradients near those of fp32."""
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
    """The same masks in any batch, from keys; none while evaluating."""
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
    ids[1, 5] = PAD  # one inside of a text is a token
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, **CLOSE)
