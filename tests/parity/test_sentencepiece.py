"""SentencePiece models without tokenizer.json: the ids of the library, and broken files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from trainer import AutoTokenizer
from trainer.errors import InputError

FIXTURES = Path(__file__).parent / "fixtures" / "sentencepiece"
RECORDED = json.loads((FIXTURES / "ids.json").read_text(encoding="utf-8"))
CASES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "deberta-v2": ("DebertaV2Tokenizer", "spm.model", "deberta", {}),
    "albert": (
        *("AlbertTokenizer", "spiece.model", "albert"),
        {"do_lower_case": False, "keep_accents": True},
    ),
    "xlm-roberta": ("XLMRobertaTokenizer", "sentencepiece.bpe.model", "fairseq", {}),
    "camembert": ("CamembertTokenizer", "sentencepiece.bpe.model", "fairseq", {}),
    "mbart": ("MBartTokenizer", "sentencepiece.bpe.model", "fairseq", {"src_lang": "de_DE"}),
    "mbart50": ("MBart50Tokenizer", "sentencepiece.bpe.model", "fairseq", {"src_lang": "fr_XX"}),
    "t5": ("T5Tokenizer", "spiece.model", "t5", {}),
}
AROUND = {
    "deberta-v2": ("[CLS] A [SEP]", "[CLS] A [SEP] B [SEP]"),
    "albert": ("[CLS] A [SEP]", "[CLS] A [SEP] B [SEP]"),
    "xlm-roberta": ("<s> A </s>", "<s> A </s> </s> B </s>"),
    "camembert": ("<s> A </s>", "<s> A </s> </s> B </s>"),
    "mbart": ("A </s> de_DE", "A B </s> de_DE"),
    "mbart50": ("fr_XX A </s>", "fr_XX A B </s>"),
    "t5": ("A </s>", "A </s> B </s>"),
}


def folder_of(case: str, folder: Path) -> Path:
    """A folder as on the hub: the SentencePiece file and the old config entries."""
    kind, name, model, options = CASES[case]
    shutil.copy(FIXTURES / f"{model}.model", folder / name)
    if case == "deberta-v2":
        (folder / "added_tokens.json").write_text(json.dumps({"[MASK]": 80}))
    entries = {"tokenizer_class": kind, **options}
    (folder / "tokenizer_config.json").write_text(json.dumps(entries))
    return folder


def placed(case: str, ids: list[int]) -> list[int]:
    """The family's ids for SentencePiece's ids; fairseq's vocabularies start with extra pieces."""
    before = {"xlm-roberta": 1, "mbart": 1, "mbart50": 1, "camembert": 4}.get(case)
    return ids if before is None else [3 if number == 0 else number + before for number in ids]


@pytest.mark.parametrize("case", CASES)
def test_ids_are_those_of_the_library(case: str, tmp_path: Path) -> None:
    """The ids equal those recorded from sentencepiece; transformers reads the saved tokenizer."""
    ours = AutoTokenizer.from_pretrained(folder_of(case, tmp_path))
    found = ours(RECORDED["texts"], add_special_tokens=False)["input_ids"]
    assert found == [placed(case, ids) for ids in RECORDED["ids"][CASES[case][2]]]

    words = {"A": "▁dog", "B": "▁fox"}
    for template, texts in zip(AROUND[case], (("dog",), ("dog", "fox")), strict=True):
        tokens = ours.convert_ids_to_tokens(ours(*texts)["input_ids"])
        assert tokens == [words.get(word, word) for word in template.split()]
    if case == "t5":
        assert ours.convert_tokens_to_ids(["<extra_id_99>", "<extra_id_0>"]) == [80, 179]
    else:
        assert ours.mask_token in ("[MASK]", "<mask>") and ours.mask_token_id is not None
    if case.startswith("mbart"):
        codes = 25 if case == "mbart" else 52
        assert len(ours.additional_special_tokens) == codes
        assert ours.mask_token_id - ours.convert_tokens_to_ids("ar_AR") == codes

    ours.save_pretrained(tmp_path / "saved")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "saved" / "tokenizer.json")
    )
    assert theirs(RECORDED["texts"])["input_ids"] == ours(RECORDED["texts"])["input_ids"]


def test_what_cannot_be_converted_is_refused_with_the_command_that_can(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "fairseq.model", tmp_path / "spiece.model")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "XLNetTokenizer"}')
    with pytest.raises(InputError, match=r"of the family 'xlnet' .*pip install transformers") as no:
        AutoTokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(no.value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: b"version https://git-lfs.github.com/spec/v1",
        lambda data: data[: len(data) // 2],
        lambda data: b"\xff" * 64,
        lambda data: data.replace(b"\x0a", b"\x08"),
        lambda data: data.replace("▁".encode(), b"\xe2\x96\xff"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(spoil: Any, tmp_path: Path) -> None:
    file = folder_of("xlm-roberta", tmp_path) / "sentencepiece.bpe.model"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(InputError) as refused:
        AutoTokenizer.from_pretrained(tmp_path)
    assert str(file) in str(refused.value) and "\n" not in str(refused.value)
