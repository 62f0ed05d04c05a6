"""Encoder-decoders of transformers: losses, texts, adapters and files as in transformers."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from recipes.seq2seq import Seq2Seq
from tests.interop.foreign import BART, T5, WRITERS, params, save_foreign, still
from tests.interop.test_foreign_generation import spread
from tests.unit.text_runs import tokenizer
from trainer.errors import InputError
from trainer.generation.settings import GenerationSettings
from trainer.generation.token_ids import generate_ids
from trainer.interop.foreign_source_cache import ForeignSourceCache
from trainer.interop.padded_loading import load_padded
from trainer.interop.padded_seq2seq import PaddedSeq2Seq
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.settings import TrainSettings
from trainer.tasks.losses import next_token_loss
from trainer.trainer import Trainer

SMALL = {"vocab_size": 310, "bos_token_id": 1, "eos_token_id": 2}
SOURCES = [[5, 6, 7, 8, 9, 2], [10, 11, 2], [12, 13, 14, 2]]
TARGETS = [[20, 21, 22, 2], [23, 2], [24, 25, 2]]
ROWS = [
    {"source": "two by two", "target": "one for all"},
    {"source": "a", "target": "b and a c"},
    {"source": "one more of these", "target": "no"},
]
ROOM = {"max_new_tokens": 8}


def starts(name: str) -> dict[str, int]:
    return {} if WRITERS[name].get("decoder_start_token_id") == 0 else {"decoder_start_token_id": 2}


@pytest.fixture(scope="module", params=params(WRITERS, ("m2m_100",)))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = request.param
    folder = save_foreign(name, tmp_path_factory.mktemp("w") / name, **SMALL, **starts(name))
    loaded = load_padded(folder, "seq2seq_lm", {})
    assert isinstance(loaded, PaddedSeq2Seq)
    spread(loaded).save_pretrained(folder)
    return folder


def theirs(folder: Path) -> Any:
    return transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()


def projection(model: PaddedSeq2Seq) -> Any:
    ids, targets = (torch.tensor(sum(rows, [])) for rows in (SOURCES, TARGETS))
    lengths, of_targets = (torch.tensor([len(row) for row in rows]) for rows in (SOURCES, TARGETS))
    outputs = model(ids, lengths, decoder_target_ids=targets, decoder_sequence_lengths=of_targets)
    return outputs.projection, targets


def their_loss(model: Any) -> torch.Tensor:
    """The sum over all tokens of the targets, one pair at a time."""
    pairs = zip(SOURCES, TARGETS, strict=True)
    losses = [model(torch.tensor([s]), labels=torch.tensor([t])).loss * len(t) for s, t in pairs]
    return torch.stack(losses).sum()


def test_loss_gradients_and_texts_are_those_of_transformers(base: Path) -> None:
    ours, other = load_padded(base, "seq2seq_lm", {}), theirs(base)
    found, wanted = next_token_loss(*projection(ours)), their_loss(other)
    assert found.sum.item() == pytest.approx(wanted.item(), rel=1e-5)
    found.sum.backward()  # type: ignore[no-untyped-call]
    wanted.backward()
    largest = max(p.grad.norm() for p in other.parameters() if p.grad is not None)
    for name, parameter in ours.inner.named_parameters():
        gradient = other.get_parameter(name).grad
        assert (gradient is None) == (parameter.grad is None), name
        assert gradient is None or (parameter.grad - gradient).norm() <= 1e-5 * largest, name
    for num_beams in (1, 3):
        texts = generate_ids(ours, SOURCES, GenerationSettings(num_beams=num_beams, **ROOM))
        for source, text in zip(SOURCES, texts, strict=True):
            options = {**ROOM, "do_sample": False, "num_beams": num_beams}
            assert text == other.generate(torch.tensor([source]), **options)[0, 1:].tolist()
    assert ours._cache_works


def test_folders_and_adapters_are_those_of_transformers_and_peft(
    base: Path, tmp_path: Path
) -> None:
    """LoRA on every layer, and IA3 on the keys; saved, loaded by both packages, and merged."""
    torch.manual_seed(0)
    targets = {"targets": ["k_proj" if "encoder_layers" in WRITERS[base.name] else "k"]}
    for settings in (LoRASettings(rank=2), LoRASettings(ia3=True, feedforward=[], **targets)):
        ours = load_padded(base, "seq2seq_lm", {})
        before = projection(ours)[0].rows()
        ours.add_lora(settings)
        with torch.no_grad():
            for parameter in ours.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.3)
        wanted = projection(ours.eval())[0].rows()
        assert (wanted - before).norm() > 0.01 * before.norm()
        folder = tmp_path / f"adapter {settings.ia3}"
        ours.save_pretrained(folder)
        assert (
            json.loads((folder / "adapter_config.json").read_text())["task_type"] == "SEQ_2_SEQ_LM"
        )
        adapted = peft.PeftModel.from_pretrained(theirs(base), folder).eval()
        assert their_loss(adapted).item() == pytest.approx(
            next_token_loss(*projection(ours)).sum.item(), rel=1e-4
        )
        again = load_padded(folder, "seq2seq_lm", {})
        assert torch.equal(projection(again)[0].rows(), wanted)
        again.save_pretrained(tmp_path / "merged", merge=True)
        merged = their_loss(theirs(tmp_path / "merged")).item()
        assert merged == pytest.approx(next_token_loss(*projection(ours)).sum.item(), rel=1e-4)


def test_layers_are_not_left_out_and_tables_of_positions_are_not_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {**SMALL, **starts("pegasus"), "encoder_layerdrop": 0.5, "decoder_layerdrop": 0.5}
    model = load_padded(save_foreign("pegasus", tmp_path, **sizes), "seq2seq_lm", {})
    assert isinstance(model, PaddedSeq2Seq) and "LayerDrop is off" in caplog.text
    frozen = [name for name, p in model.inner.named_parameters() if not p.requires_grad]
    assert frozen == [f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder")]
    next_token_loss(*projection(model.train())).sum.backward()  # type: ignore[no-untyped-call]
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def gradient(folder: Path, split: int | None) -> torch.Tensor:
    """The change of the weights in one step of SGD with a rate of 1, in fp64."""
    model = still(folder, "seq2seq_lm")
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    settings = TrainSettings(
        global_batch_size=3, max_steps=1, learning_rate=1.0, optimizer="sgd", warmup_steps=0,
        lr_scheduler="constant", precision="fp32", micro_batch_size=split, weight_decay=0.0,
        max_grad_norm=0.0,
    )  # fmt: skip
    recipe = Seq2Seq(max_source_length=16, max_target_length=16)
    Trainer(model, recipe, settings, tokenizer=tokenizer(), train_dataset=ROWS).fit()
    return before - torch.nn.utils.parameters_to_vector(model.parameters()).detach()


def test_any_split_gives_one_gradient(base: Path) -> None:
    whole, *others = (gradient(base, split) for split in (None, 1, 2))
    assert whole.norm() > 0
    for other in others:
        assert (other - whole).norm() <= 1e-12 * whole.norm()


def test_a_model_without_a_usable_cache_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_foreign("pegasus", tmp_path, **SMALL, **starts("pegasus"))
    model = load_padded(folder, "seq2seq_lm", {})
    wanted = generate_ids(model, SOURCES, GenerationSettings(**ROOM))
    assert "computes the whole text again" not in caplog.text
    broken = load_padded(folder, "seq2seq_lm", {})
    decoder = broken.inner.get_decoder()
    forward = decoder.forward
    decoder.forward = lambda past_key_values=None, **inputs: forward(
        **{**inputs, "use_cache": False}
    )
    assert generate_ids(broken, SOURCES, GenerationSettings(**ROOM)) == wanted
    assert "each new token computes the whole text again" in caplog.text


def test_texts_of_unequal_lengths_are_refused() -> None:
    cache = ForeignSourceCache(2, has_past=False)
    with pytest.raises(InputError, match="found texts of 1 to 2 tokens; accepted: texts of equal"):
        cache.extend(lambda *_: torch.zeros(0), torch.zeros(3), torch.tensor([1, 2]))


@pytest.mark.parametrize(
    ("kind", "sizes", "said"),
    [
        (
            "prophetnet",
            {
                "hidden_size": 16, "num_encoder_layers": 1, "num_decoder_layers": 1,
                "num_encoder_attention_heads": 2, "num_decoder_attention_heads": 2,
                "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 61,
            },
            "has layers between its decoder and its output weights; accepted: models without",
        ),
        ("plbart", {}, "plbart is an encoder-decoder; accepted by .*: recipe=seq2seq, or other"),
    ],
)  # fmt: skip
def test_models_that_are_put_together_otherwise_are_refused(
    kind: str, sizes: dict[str, int], said: str, tmp_path: Path
) -> None:
    if kind in WRITERS:
        folder, task = save_foreign(kind, tmp_path, **SMALL), "sequence_classification"
    else:
        folder, task = tmp_path, "seq2seq_lm"
        config = transformers.AutoConfig.for_model(kind, **sizes)
        transformers.AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    with pytest.raises(InputError, match=said):
        load_padded(folder, task, {"id2label": {0: "a", 1: "b"}} if task != "seq2seq_lm" else {})


EXPERTS = {
    "nllb-moe": {**BART, "num_experts": 2, "encoder_sparse_step": 1, "decoder_sparse_step": 1},
    "switch_transformers": {
        **{**T5, "num_decoder_layers": 2, "num_sparse_encoder_layers": 1},
        **{"num_sparse_decoder_layers": 1, "num_experts": 2},
    },
}


@pytest.mark.parametrize("kind", EXPERTS)
def test_encoder_decoders_with_experts_are_refused(kind: str, tmp_path: Path) -> None:
    """With or without the routers' losses."""
    config = transformers.AutoConfig.for_model(
        kind, **SMALL, **EXPERTS[kind], output_router_logits=True
    )
    transformers.AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path)
    said = f"model_type: found {kind}, an encoder-decoder with experts; accepted: encoder-dec"
    for routers in (True, False):
        with pytest.raises(InputError, match=said):
            load_padded(tmp_path, "seq2seq_lm", {"output_router_logits": routers})


def test_attention_that_a_short_batch_switches_off_is_refused(tmp_path: Path) -> None:
    """The decoder of BigBird-Pegasus is fully attended, the encoder and BigBird itself are not."""
    said = "attention_type: found block_sparse.* accepted: original_full"
    for kind, task in (("bigbird_pegasus", "seq2seq_lm"), ("big_bird", "token_classification")):
        sizes = {**SMALL, "intermediate_size": 20, "attention_type": "block_sparse"}
        folder = save_foreign(kind, tmp_path / kind, **sizes)
        with pytest.raises(InputError, match=said):
            load_padded(folder, task, {})
        load_padded(folder, task, {"attention_type": "original_full"})


def test_parts_of_shared_embeddings_are_not_trained(base: Path, tmp_path: Path) -> None:
    """The encoder and the decoder have embeddings of their own, with the same parameter."""
    for options, said in (
        ({"trainable_tokens": [3]}, "trainable_tokens: found 1 tokens, and .*; accepted: .."),
        ({"modules_to_save": ["shared"]}, "modules_to_save: found 'shared', and .* shares the emb"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: found 'lm_head', and .* shares"),
        ({"modules_to_save": ["encoder.embed_tokens"]}, "found 'encoder.embed_tokens', and"),
        ({"modules_to_save": ["encoder"], "ia3": True}, "modules_to_save: found 'encoder', and"),
    ):
        model = load_padded(base, "seq2seq_lm", {})
        with pytest.raises(InputError, match=said):
            model.add_lora(LoRASettings(**{"rank": None if "ia3" in options else 2, **options}))
        assert model.lora is None
    targets = ["k_proj" if "encoder_layers" in WRITERS[base.name] else "k"]
    for name, options in (
        ("rows", {"trainable_token_indices": {"shared": [3]}}),
        ("whole", {"modules_to_save": ["shared"]}),
    ):
        config = peft.LoraConfig(r=2, target_modules=targets, task_type="SEQ_2_SEQ_LM", **options)
        peft.get_peft_model(theirs(base), config).save_pretrained(tmp_path / name)
        with pytest.raises(InputError, match=f"{name}: found trained embeddings, and .* shares"):
            load_padded(tmp_path / name, "seq2seq_lm", {})
