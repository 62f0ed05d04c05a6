"""`model.rope_scaling` on models without scaling: the same numbers and files as transformers'."""

import re

import pytest
import torch
import transformers

from tests.parity.closeness import assert_equal_in_fp32
from trainer.errors import InputError
from trainer.jobs.parts.model import load_model
from trainer.models.family import find_family
from trainer.runs.run import ModelSettings
from trainer.tasks.recipe import Head

TRAINED, LONG = 16, 41
SIZES = {
    "vocab_size": 67,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 40,
    "max_position_embeddings": TRAINED,
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
LONGROPE = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 2.5, 3.0, 3.5]}
ROPES = {
    "linear": {"factor": 3.0},
    "dynamic": {"factor": 3.0},
    "yarn": {"factor": 3.0, "beta_fast": 8.0},
    "llama3": {"factor": 3.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "longrope": {"factor": 3.0, **LONGROPE},
}
EXTENDED = ("yarn", "llama3", "longrope")
IDS = torch.randint(3, 67, (1, LONG), generator=torch.Generator().manual_seed(0))


def saved(folder, family="llama", **config):
    """A folder with a small random model of transformers."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **{**SIZES, **config})
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return str(folder)


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def scaled(path, scaling, **settings):
    settings = ModelSettings(path=path, rope_scaling=scaling, **settings)
    return load_model(settings, Head("causal_lm"), seed=0)


def theirs_with(path, scaling, **config):
    scaling = {"rope_theta": 10_000.0, **scaling}
    extended = scaling["rope_type"] in EXTENDED
    if extended:
        scaling["original_max_position_embeddings"] = TRAINED
        config = {"max_position_embeddings": 3 * TRAINED, **config}
    return transformers.AutoModelForCausalLM.from_pretrained(
        path, rope_parameters=scaling, attn_implementation="eager", **config
    )


@pytest.mark.parametrize("kind", ROPES)
def test_a_requested_scaling_equals(kind, tmp_path):
    """transformers computes the same from the saved folder; applying it again changes nothing."""
    path, scaling = saved(tmp_path / "plain"), {"rope_type": kind, **ROPES[kind]}
    ours = scaled(path, scaling)
    plain = logits(scaled(path, {}))
    expected = logits(theirs_with(path, scaling))
    assert (plain - expected).abs().max() > 0.1
    assert_equal_in_fp32(logits(ours), expected)
    ours.save_pretrained(tmp_path / "ours")
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert_equal_in_fp32(logits(back), expected)
    assert back.config.max_position_embeddings == TRAINED * (3 if kind in EXTENDED else 1)
    again = scaled(str(tmp_path / "ours"), scaling)
    assert again.config.to_dict() == ours.config.to_dict()
    removed = scaled(str(tmp_path / "ours"), {"rope_type": "default"})
    assert torch.equal(logits(removed), plain)


def test_the_longest_text_may_be_given_in_place_of_the_factor(tmp_path):
    path, scaling = saved(tmp_path), {"rope_type": "longrope", **LONGROPE}
    ours = scaled(path, scaling, config={"max_position_embeddings": 48})
    expected = logits(theirs_with(path, scaling))
    assert_equal_in_fp32(logits(ours), expected)


@pytest.mark.parametrize("family", ["phi3", "glm4", "gemma3_text", "mixtral"])
def test_families_with_entries_of_their_own_equal(family, tmp_path):
    """Partial rotations, a separate trained length (phi3), unscaled layers (gemma3)."""
    own = {"gemma3_text": {"layer_types": ["sliding_attention", "full_attention"]}}
    own |= {"phi3": {"original_max_position_embeddings": TRAINED}, "mixtral": {}}
    own |= {"glm4": {"partial_rotary_factor": 0.5}}
    path = saved(tmp_path / "plain", family, **own[family])
    kind = "longrope" if family == "phi3" else "yarn"
    scaling = {"rope_type": kind, **ROPES[kind]}
    ours = scaled(path, scaling)
    ours.save_pretrained(tmp_path / "ours")
    back = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", attn_implementation="eager"
    )
    assert_equal_in_fp32(logits(ours), logits(back))
    assert (logits(ours) - logits(scaled(path, {}))).abs().max() > 0.05
    rope = back.config.rope_parameters
    if family == "gemma3_text":
        assert rope["sliding_attention"]["rope_type"] == "default"
        rope = rope["full_attention"]
    theta = {"gemma3_text": 1_000_000.0, "mixtral": 1_000_000.0}.get(family, 10_000.0)
    wanted = {**scaling, "rope_theta": theta, "original_max_position_embeddings": TRAINED}
    assert {name: rope[name] for name in wanted} == wanted
    assert family != "glm4" or rope["partial_rotary_factor"] == 0.5
    assert find_family(family).model_type == back.config.model_type


YARN = {"rope_type": "yarn", "factor": 3.0}
LLAMA3 = {"rope_type": "llama3", **ROPES["llama3"]}


@pytest.mark.parametrize(
    ("scaling", "settings", "message"),
    [
        ({"factor": 2.0}, {}, "rope_type: nothing given; accepted: default, linear"),
        ({"rope_type": "spiral"}, {}, "rope_type: found 'spiral'; accepted: default, linear"),
        ({"rope_type": "yarn", "type": "linear", "factor": 2.0}, {}, "rope_type yarn and type lin"),
        ({"rope_type": "yarn"}, {}, "factor: missing; rope_type yarn needs it"),
        ({**YARN, "factor": 0.5}, {}, "factor: found 0.5; accepted: a number of 1 or more"),
        ({**YARN, "low_freq_factor": 1.0}, {}, "low_freq_factor: found it with rope_type yarn"),
        ({**YARN, "beta_fast": 0.5}, {}, "beta_slow: found 1.0, and beta_fast is 0.5; accepted: a"),
        ({**LLAMA3, "high_freq_factor": 1}, {}, "low_freq_factor: found 1.0, and high_freq_fac"),
        ({"rope_type": "linear", "factor": "2"}, {}, "factor: found '2'; accepted: a number of 1"),
        (
            {"rope_type": "linear", "factor": 2.0, "original_max_position_embeddings": 8},
            {},
            "original_max_position_embeddings: found it with rope_type linear",
        ),
        (
            YARN,
            {"config": {"max_position_embeddings": 64}},
            "factor: found 3.0, but model.config.max_position_embeddings is 64 and the trained "
            "length 16; accepted: 4, or model.config.max_position_embeddings=48",
        ),
        (YARN, {"config": {"rope_scaling": YARN}}, "found it with model.config.rope_scaling"),
        ({"rope_type": "longrope", **LONGROPE}, {}, "found no factor of the length; accepted: a f"),
        (
            {"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0], "long_factor": [2.0]},
            {},
            "rope_parameters: short_factor: found 1 numbers; accepted: a list of 4 numbers",
        ),
        (YARN, {"backend": "transformers"}, "runs through transformers; accepted: model.config.ro"),
    ],
)
def test_contradictions_are_refused_in_one_line(scaling, settings, message, tmp_path):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        scaled(saved(tmp_path), scaling, **settings)
    assert "\n" not in str(caught.value)


def test_models_without_rotary_positions_are_refused(tmp_path):
    sizes = {**SIZES, "num_hidden_layers": 1, "type_vocab_size": 2}
    transformers.BertModel(transformers.BertConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"^model.rope_scaling: bert models have no rotary pos"):
        load_model(ModelSettings(str(tmp_path), rope_scaling=YARN), Head("masked_lm"), seed=0)
