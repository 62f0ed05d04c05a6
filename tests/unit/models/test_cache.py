"""The cache of keys and values: a text in parts gives the outputs of the whole text."""

import pytest
import torch

from tests.unit.generation.small_decoders import SIZES
from trainer.errors import InputError
from trainer.models.auto import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from trainer.models.cache import KeyValueCache

BART = {
    **{"model_type": "bart", "vocab_size": 30, "d_model": 16, "max_position_embeddings": 16},
    **{"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16},
    **{"decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 16},
}
PARTS = [[3, 90, 1], [70, 1, 2], [1, 1, 1]]
"""Tokens of three texts that each of three calls adds; more than the cache has room for at first"""


@pytest.mark.parametrize("window", [None, 6])
def test_a_text_in_parts_gives_what_the_whole_gives(window):
    torch.manual_seed(0)
    config = AutoConfig({"model_type": "mistral", **SIZES, "sliding_window": window})
    model = AutoModelForCausalLM.from_config(config).double().eval()
    texts = [torch.randint(30, (sum(counts),)) for counts in zip(*PARTS, strict=True)]
    whole = [model(text[None]).logits[0] for text in texts]
    cache, done = KeyValueCache(3), [0, 0, 0]
    for counts in PARTS:
        ends = [start + count for start, count in zip(done, counts, strict=True)]
        new = torch.cat([t[a:b] for t, a, b in zip(texts, done, ends, strict=True)])
        with torch.no_grad():
            found = model(new, sequence_lengths=torch.tensor(counts), cache=cache).logits
        wanted = [logits[a:b] for logits, a, b in zip(whole, done, ends, strict=True)]
        torch.testing.assert_close(found, torch.cat(wanted), rtol=1e-9, atol=1e-12)
        done = ends
    assert cache.lengths.tolist() == done


def test_rows_leave_and_change_places():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig({"model_type": "llama", **SIZES})).eval()
    texts = [torch.randint(30, (length,)) for length in (5, 2, 9)]
    cache = KeyValueCache(3)
    starts = torch.cat([text[:-1] for text in texts])
    with torch.no_grad():
        model(starts, sequence_lengths=torch.tensor([4, 1, 8]), cache=cache)
        cache.keep(torch.tensor([2, 0]))
        new = torch.stack([texts[2][-1], texts[0][-1]])
        found = model(new, sequence_lengths=torch.tensor([1, 1]), cache=cache).logits
        wanted = [model(texts[i][None]).logits[0, -1] for i in (2, 0)]
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-5, atol=1e-5)


def test_calls_that_a_cache_cannot_be_in_are_refused():
    model = AutoModelForCausalLM.from_config(AutoConfig({"model_type": "llama", **SIZES})).eval()
    flat = {"input_ids": torch.tensor([1, 2]), "sequence_lengths": torch.tensor([2])}
    with pytest.raises(InputError, match="output_attentions: found True with a cache"):
        model(**flat, cache=KeyValueCache(1), output_attentions=True)
    for call in (flat, {"input_ids": torch.tensor([[1, 2]])}):
        name = "cache" if call is flat else "past_key_values"
        with pytest.raises(InputError, match="found a cache of 3 sequences; accepted: one of 1,"):
            model(**call, **{name: KeyValueCache(3)})
    assert KeyValueCache(2).get_seq_length(layer_idx=0) == 0
    with pytest.raises(InputError, match="cache: found one in a padded call"):
        model(torch.tensor([[1, 2]]), cache=KeyValueCache(1))


def test_targets_of_different_lengths_share_a_cache():
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig(BART)).double().eval()
    source = {"input_ids": torch.arange(5, 10), "sequence_lengths": torch.tensor([3, 2])}
    cache = model.new_source_cache(2)
    first = {
        "decoder_input_ids": torch.tensor([2, 2, 8, 9]),
        "decoder_sequence_lengths": torch.tensor([1, 3]),
    }
    with torch.no_grad():
        wanted = model(**source, **first).logits
        torch.testing.assert_close(model(**source, **first, cache=cache).logits, wanted)
        new, lengths = torch.tensor([7, 6, 4]), torch.tensor([2, 1])
        found = model(new, sequence_lengths=lengths, cache=cache).logits
        whole = {
            "decoder_input_ids": torch.tensor([2, 7, 6, 2, 8, 9, 4]),
            "decoder_sequence_lengths": torch.tensor([3, 4]),
        }
        wanted = model(**source, **whole).logits[[1, 2, 6]]
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("kind", [AutoModelForCausalLM, AutoModelForSeq2SeqLM])
def test_attentions_that_the_config_asks_for_do_not_hinder_generation(kind):
    entries = {"model_type": "llama", **SIZES} if kind is AutoModelForCausalLM else BART
    model = kind.from_config(AutoConfig({**entries, "output_attentions": True})).eval()
    ids = torch.tensor([[5, 6, 2], [7, 8, 2]])
    assert len(model.generate(ids, max_new_tokens=3)) == 2
    given = {"input_ids": torch.tensor([5, 6]), "sequence_lengths": torch.tensor([2])}
    if kind is AutoModelForSeq2SeqLM:
        given["decoder_input_ids"], given["decoder_sequence_lengths"] = torch.ones(2, 1).long()
        given["cache"] = model.new_source_cache(1)
    else:
        given["cache"] = model.new_cache(1)
    with pytest.raises(InputError, match="output_attentions: found True with a cache"):
        model(**given, output_attentions=True)
