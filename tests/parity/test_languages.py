"""Tokenizers that mark texts with languages, against transformers', and training with them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from recipes.seq2seq import Seq2Seq
from tests.parity.test_sentencepiece import folder_of
from trainer import AutoTokenizer
from trainer.errors import InputError
from trainer.models.auto import AutoConfig, AutoModelForSeq2SeqLM
from trainer.tokenizer.sources import cut

PIECES = [("▁", -2.0), ("▁a", -3.0), ("▁dog", -3.0), ("▁fox", -3.0), ("s", -4.0)]
FIRST = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
KINDS = {"mbart": transformers.MBartTokenizer, "mbart50": transformers.MBart50Tokenizer}


@pytest.fixture(params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any]:
    """(ours, theirs) with the same vocabulary."""
    theirs = KINDS[request.param](vocab=FIRST + PIECES, src_lang="de_DE", tgt_lang="fr_XX")
    theirs.save_pretrained(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path), theirs


def test_languages_mark_texts_as_in_transformers(both: tuple[Any, Any], tmp_path: Path) -> None:
    ours, theirs = both
    for source in ("de_DE", "en_XX"):
        ours.src_lang = theirs.src_lang = source
        assert ours.src_lang == source and ours.tgt_lang == theirs.tgt_lang == "fr_XX"
        for texts in (("a dog",), ("a dog", "foxs")):
            assert ours(*texts)["input_ids"] == theirs(*texts)["input_ids"]
        wanted = theirs(text_target="a fox")["input_ids"]
        assert ours(text_target="a fox")["input_ids"] == wanted
        assert ours("a dog", text_target="a fox")["labels"] == wanted
        assert ours(text_target="a fox").tokens() == theirs.convert_ids_to_tokens(wanted)
        assert ours("a dog")["input_ids"] == theirs("a dog")["input_ids"]
    ours.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert (again.src_lang, again.tgt_lang) == ("en_XX", "fr_XX")
    assert again(text_target="a fox")["input_ids"] == wanted
    chosen = AutoTokenizer.from_pretrained(tmp_path / "saved", src_lang="ro_RO", tgt_lang="nl_XX")
    assert "ro_RO" in chosen.convert_ids_to_tokens(chosen("a dog")["input_ids"])
    with pytest.raises(InputError, match=r"src_lang: found 'en_EN'; accepted: a token"):
        ours.src_lang = "en_EN"


def test_a_recipe_marks_both_sides_and_keeps_the_marks_of_long_texts(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    recipe = Seq2Seq(source_language="en_XX", target_language="ro_RO", max_target_length=6)
    rows = {"source": ["a dog"], "target": ["a fox a fox a fox a fox"]}
    (source, target) = recipe.features(rows, ours)["input_ids"][0]
    theirs.src_lang, theirs.tgt_lang = "en_XX", "ro_RO"
    assert source == theirs("a dog")["input_ids"]
    whole = theirs(text_target=rows["target"][0])["input_ids"]
    behind = len(theirs.suffix_tokens)
    assert target == whole[: 6 - behind] + whole[-behind:] and len(target) == 6

    config = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": len(ours)}
    config |= {f"{side}_{n}": 2 for side in ("encoder", "decoder") for n in ("attention_heads",)}
    config |= {"encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "decoder_start_token_id": 2}
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig({"model_type": "mbart", **config}))
    labels = torch.tensor([target])
    assert model.prepare_decoder_input_ids_from_labels(labels)[0, 0] == target[-1]
    model(torch.tensor([source]), labels=labels).loss.backward()


def test_other_tokenizers_have_no_languages(tmp_path: Path) -> None:
    ours = AutoTokenizer.from_pretrained(folder_of("xlm-roberta", tmp_path))
    assert ours.src_lang is None and ours.tgt_lang is None
    with pytest.raises(
        InputError, match=r"found 'en_XX' for a XLMRobertaTokenizer, which marks no"
    ):
        ours.src_lang = "en_XX"
    with pytest.raises(InputError, match="which marks no languages"):
        Seq2Seq(target_language="en_XX").features({"source": ["dog"], "target": ["fox"]}, ours)


def test_cut_keeps_as_many_last_ids_as_asked() -> None:
    ids = [1, 2, 3, 4, 5]
    assert cut(ids, 5, 2) == ids and cut(ids, 4, 2) == [1, 2, 4, 5]
    assert cut(ids, 3) == [1, 2, 5] and cut(ids, 1, 2) == [5]
