"""Encoder-decoders against transformers: outputs, loss, gradients, and files both ways."""

import copy

import pytest
import torch
import transformers
from torch import nn

from trainer.errors import InputError
from trainer.generation.settings import GenerationSettings
from trainer.generation.token_ids import generate_ids
from trainer.models.auto import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from trainer.models.blocks.dropout_hash import token_keys
from trainer.models.family import find_family, native_families

T5 = {
    **{"d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3},
    **{"num_heads": 4, "vocab_size": 99, "decoder_start_token_id": 0},
    **{"relative_attention_num_buckets": 8, "relative_attention_max_distance": 7},
}
BART = {
    **{"d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 48},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 2, "decoder_ffn_dim": 40},
    **{"vocab_size": 99, "max_position_embeddings": 24, "scale_embedding": True},
}
CASES = {
    "t5": T5,
    "t5 1.1": {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "mt5": T5,
    "bart": BART,
    "mbart": {**BART, "decoder_start_token_id": 2},
    "marian": {**BART, "pad_token_id": 98, "decoder_start_token_id": 98},
}
OWN_OUTPUT_WEIGHTS = ("t5 1.1", "mt5")
MASKS = {
    "none": None,
    "right": [[1] * 11, [1] * 4 + [0] * 7, [1] * 8 + [0] * 3],
    "left": [[0] * 3 + [1] * 8, [1] * 11, [0] * 10 + [1]],
    "holes": [[1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 0], [0, 1, 0, 1] + [0] * 7, [1] * 11],
}
EXACT = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """(ours, theirs, folder that transformers saved), with equal random weights in float64."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    kind = request.param.split()[0]
    config = transformers.AutoConfig.for_model(kind, **CASES[request.param])
    theirs = transformers.AutoModelForSeq2SeqLM.from_config(config)
    if request.param in OWN_OUTPUT_WEIGHTS:
        theirs.lm_head.weight = nn.Parameter(torch.randn(99, 32))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        if hasattr(theirs, "final_logits_bias"):
            theirs.final_logits_bias.normal_()
    theirs.save_pretrained(folder)
    loaded = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="eager")
    return (
        AutoModelForSeq2SeqLM.from_pretrained(folder, dtype="float64"),
        exact(loaded.eval()),
        folder,
    )


def exact(theirs):
    """A copy in float64; the norms of transformers' T5 would compute in float32."""
    theirs = copy.deepcopy(theirs).double()
    for module in list(theirs.modules()):
        for name, child in module.named_children():
            if hasattr(child, "variance_epsilon"):
                norm = nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon)
                norm.weight = child.weight
                setattr(module, name, norm)
    return theirs


def batch(mask=None):
    torch.manual_seed(1)
    found = {"input_ids": torch.randint(3, 90, (3, 11)), "labels": torch.randint(3, 90, (3, 7))}
    found["labels"][1, 5:] = -100
    if mask is not None:
        found["attention_mask"] = torch.tensor(mask)
    return found


def is_fixed(name, theirs):
    """Whether a parameter is a sinusoidal table."""
    return theirs.config.model_type == "marian" and "embed_positions" in name


def test_every_family_is_compared():
    kinds = {name for name in native_families() if find_family(name).kind == "encoder_decoder"}
    assert kinds == {case.split()[0] for case in CASES}


@pytest.mark.parametrize(
    ("padding", "masked_labels"), [*((m, False) for m in MASKS), ("left", True)]
)
def test_every_output_loss_and_gradient_equals(pair, padding, masked_labels):
    ours, theirs, _ = pair
    inputs = batch(MASKS[padding])
    written = (inputs["labels"] != -100) if masked_labels else torch.ones(3, 7, dtype=torch.bool)
    if masked_labels:
        inputs["decoder_attention_mask"] = written.long()
    asked = {"output_hidden_states": True, "output_attentions": True}
    found, wanted = ours(**inputs, **asked), theirs(**inputs, **asked)
    assert found.keys() == [name for name in wanted if name != "past_key_values"]
    read = inputs.get("attention_mask", torch.ones(3, 11)).bool()
    for name, value in found.items():
        seen = read if name.startswith("encoder") else written
        both = [value, wanted[name]] if isinstance(value, tuple) else [[value], [wanted[name]]]
        for one, other in zip(*both, strict=True):
            assert one.shape == other.shape, name
            if name != "loss":
                one, other = (x.transpose(1, 2) if x.dim() == 4 else x for x in (one, other))
                one, other = one[seen], other[seen]
            torch.testing.assert_close(one, other, **EXACT, msg=lambda m, n=name: f"{n}: {m}")
    assert not found.logits[~written].any() or not masked_labels

    ours.zero_grad()
    theirs.zero_grad()
    found.loss.backward()
    wanted.loss.backward()
    references = dict(theirs.named_parameters(remove_duplicate=False))
    trained = [(name, p) for name, p in ours.named_parameters() if p.requires_grad]
    assert {id(references[ours.hub_name(n)]) for n, _ in trained} == {
        id(p) for name, p in theirs.named_parameters() if not is_fixed(name, theirs)
    }
    for name, parameter in trained:
        reference = references[ours.hub_name(name)].grad
        torch.testing.assert_close(parameter.grad, reference, rtol=1e-9, atol=1e-12, msg=name)


def test_a_flat_call_equals_a_padded_one(pair):
    ours, _, _ = pair
    padded = batch(MASKS["right"])
    wanted = ours(**padded)
    read, written = padded["attention_mask"].bool(), padded["labels"] != -100
    ids = ours.prepare_decoder_input_ids_from_labels(padded["labels"])
    flat = ours(
        padded["input_ids"][read],
        sequence_lengths=read.sum(1),
        decoder_input_ids=ids[written],
        decoder_sequence_lengths=written.sum(1),
        labels=padded["labels"][written],
    )
    torch.testing.assert_close(flat.logits, wanted.logits[written], **EXACT)
    torch.testing.assert_close(flat.loss, wanted.loss, **EXACT)
    found = flat.encoder_last_hidden_state
    torch.testing.assert_close(found, wanted.encoder_last_hidden_state[read], **EXACT)


def test_files_are_saved_and_read_both_ways(pair, tmp_path):
    ours, theirs, folder = pair
    ours.save_pretrained(tmp_path)
    back, info = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(back.double().state_dict()[name], tensor), name
    single = AutoModelForSeq2SeqLM.from_pretrained(folder)
    in_fp32 = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    inputs = batch(MASKS["right"])
    found, wanted = single(**inputs).logits, in_fp32(**inputs).logits
    # the error of a single entry depends on the CPU's instructions
    assert (found - wanted).norm() <= 5e-6 * wanted.norm()


def test_dropout_is_a_function_of_keys_and_recomputing_changes_nothing(pair):
    _, _, folder = pair
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype="float64").train()
    rows = torch.arange(2)

    def keys(lengths, sequence):
        places = torch.cat([torch.arange(n) for n in lengths])
        samples = rows.repeat_interleave(torch.tensor(lengths))
        return token_keys(3, 1, samples, torch.full_like(places, sequence), places)

    def call():
        model.zero_grad()
        loss = model(
            torch.arange(3, 12),
            sequence_lengths=torch.tensor([5, 4]),
            dropout_keys=keys([5, 4], 0),
            decoder_input_ids=torch.arange(20, 27),
            decoder_sequence_lengths=torch.tensor([4, 3]),
            decoder_dropout_keys=keys([4, 3], 1),
            labels=torch.arange(30, 37),
        ).loss
        loss.backward()
        return loss.detach(), [p.grad for p in model.parameters() if p.requires_grad]

    first = call()
    torch.rand(5)
    again = call()
    model.gradient_checkpointing_enable()
    recomputed = call()
    for other in (again, recomputed):
        assert torch.equal(first[0], other[0])
        assert all(map(torch.equal, first[1], other[1]))
    assert not torch.equal(first[0], model.eval()(**flat_again()).loss)


def flat_again():
    return {
        "input_ids": torch.arange(3, 12),
        "sequence_lengths": torch.tensor([5, 4]),
        "decoder_input_ids": torch.arange(20, 27),
        "decoder_sequence_lengths": torch.tensor([4, 3]),
        "labels": torch.arange(30, 37),
    }


def test_calls_that_do_not_fit_are_refused(pair):
    ours, _, _ = pair
    flat = flat_again()
    refused = {
        "decoder_input_ids: found None": {"input_ids": torch.ones(2, 3, dtype=torch.long)},
        "decoder_sequence_lengths: found None sequences; accepted: 2": {
            **flat,
            "decoder_sequence_lengths": None,
        },
        "decoder_sequence_lengths: found 1 sequences": {
            **flat,
            "decoder_sequence_lengths": torch.tensor([7]),
        },
        "decoder_input_ids: found 3 rows; accepted: 2": {
            "input_ids": torch.ones(2, 3, dtype=torch.long),
            "labels": torch.ones(3, 4, dtype=torch.long),
        },
        "labels: found 99; accepted: 0 to 98": {
            **flat,
            "labels": torch.full((7,), 99),
        },
    }
    for said, call in refused.items():
        with pytest.raises(InputError, match=said):
            ours(**call)


@pytest.mark.parametrize("case", CASES)
def test_generated_tokens_equal(case, tmp_path):
    """Greedy and with beams; what transformers returns after the end token is ignored."""
    entries = CASES[case]
    layers = {"num_decoder_layers": 2} if "d_kv" in entries else {"decoder_attention_heads": 4}
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(case.split()[0], **{**entries, **layers})
    theirs = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4 * parameter.requires_grad)
    theirs.save_pretrained(tmp_path)
    ours = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    inputs = {"input_ids": torch.randint(3, 90, (4, 9)), "attention_mask": torch.ones(4, 9).long()}
    inputs["attention_mask"][1, 4:] = 0
    for options in (
        {},
        {"num_beams": 3},
        {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True},
        {"num_beams": 3, "length_penalty": 0.0},
    ):
        found = ours.generate(**inputs, max_new_tokens=12, **options)
        wanted = theirs.generate(**inputs, max_new_tokens=12, **{"num_beams": 1, **options})
        assert found.shape == wanted.shape
        end = ours.config.eos_token_id
        for one, other in zip(found.tolist(), wanted.tolist(), strict=True):
            size = one.index(end, 1) + 1 if end in one[1:] else len(one)
            assert one[:size] == other[:size], options


def test_beam_search_of_a_decoder_equals(tmp_path):
    torch.manual_seed(3)
    config = transformers.GPT2Config(
        vocab_size=40,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=32,
        eos_token_id=5,
        bos_token_id=5,
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    theirs.save_pretrained(tmp_path)
    prompts = torch.randint(6, 40, (3, 4))
    wanted = theirs.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=8,
        num_beams=3,
        pad_token_id=0,
        length_penalty=1.0,
    )
    ours = AutoModelForCausalLM.from_pretrained(tmp_path)
    found = generate_ids(ours, prompts.tolist(), GenerationSettings(num_beams=3, max_new_tokens=8))
    for one, other in zip(found, wanted[:, 4:].tolist(), strict=True):
        assert one == other[: len(one)]


def test_mbart_starts_from_the_last_label_whatever_the_pads(pair):
    """The language code comes first, as in transformers, in padded and flat calls."""
    ours, theirs, _ = pair
    if theirs.config.model_type != "mbart":
        return
    labels = torch.tensor([[7, 8, 2, 50], [9, 2, 51, 1], [4, 52, -100, -100]])
    wanted = theirs.prepare_decoder_input_ids_from_labels(labels)
    found = ours.prepare_decoder_input_ids_from_labels(labels)
    assert torch.equal(found, wanted) and found[:, 0].tolist() == [50, 51, 52]
    seen, lengths = (labels != -100) & (labels != 1), torch.tensor([4, 3, 2])
    flat = ours.prepare_decoder_input_ids_from_labels(labels[seen], lengths)
    assert torch.equal(flat, wanted[seen])
