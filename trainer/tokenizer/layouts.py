"""Layouts: each family's special tokens, and tokenizers made from plain vocabulary files."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from trainer.errors import InputError
from trainer.tokenizer.special_tokens import content
from trainer.tokenizer.text_files import read_json, read_text

BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
ROBERTA = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>"}
ROBERTA |= {"cls": "<s>", "mask": "<mask>"}
GPT2 = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"}
LAYOUTS = (BERT, ROBERTA, GPT2)
"""The layouts (role -> special token), used for old folders that name no special tokens."""
MEMBERS = {
    "bert": BERT,
    "convbert": BERT,
    "distilbert": BERT,
    "electra": BERT,
    "layoutlm": BERT,
    "lxmert": BERT,
    "mobilebert": BERT,
    "retribert": BERT,
    "squeezebert": BERT,
    "bart": ROBERTA,
    "data2vectext": ROBERTA,
    "ibert": ROBERTA,
    "led": ROBERTA,
    "longformer": ROBERTA,
    "roberta": ROBERTA,
    "robertaprelayernorm": ROBERTA,
    "codegen": GPT2,
    "gpt2": GPT2,
    "gptj": GPT2,
    "gptneo": GPT2,
    "opt": GPT2,
}
"""Family, as `spelled` writes its tokenizer class or model_type -> its layout."""
GENERAL = ("", "pretrained", "tokenizersbackend")
"""Tokenizer classes that do not imply a family."""
BERT_OPTIONS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""An entry of tokenizer_config.json -> the option of BERT's normalizer."""


def family(config: dict[str, Any], model_config: dict[str, Any]) -> str:
    """The family that the configs name, spelled as in `MEMBERS`; an empty string if they do not."""
    return _by_class(config, model_config) or spelled(model_config.get("model_type"))


def spelled(name: object) -> str:
    """The name of a family as in `MEMBERS`: in lower case, without - and _."""
    return str(name or "").lower().replace("-", "").replace("_", "")


def conventional(backend: tokenizers.Tokenizer, name: str) -> dict[str, str]:
    """Config entry, such as unk_token -> the family's special token, if the vocabulary has it.

    For an unknown family, the layout is the first one whose unknown token is in the vocabulary.
    """
    layout = MEMBERS.get(name)
    for roles in LAYOUTS if layout is None else (layout,):
        if layout is not None or backend.token_to_id(roles["unk"]) is not None:
            found = {role: t for role, t in roles.items() if backend.token_to_id(t) is not None}
            return {f"{role}_token": token for role, token in found.items()}
    return {}


def from_vocabulary(folder: Path, config: dict[str, Any], name: str) -> tokenizers.Tokenizer:
    """A tokenizer from vocab.txt, or from vocab.json and merges.txt. Raises InputError."""
    words, pieces = folder / "vocab.txt", folder / "vocab.json"
    if words.is_file():
        # without a tokenizer class, `_wordpiece` checks that vocab.txt has BERT's special tokens
        _check_family(words, _by_class(config, {}), BERT)
        return _wordpiece(words, config)
    if pieces.is_file() and (merges := folder / "merges.txt").is_file():
        backend = _byte_level(pieces, merges)
        _check_family(pieces, name, ROBERTA, GPT2)
        likely_layout = ROBERTA if backend.token_to_id("<s>") is not None else GPT2
        if MEMBERS.get(name, likely_layout) is ROBERTA:
            return _as_roberta(backend, config, pieces)
        return _as_gpt2(backend, config, pieces)
    accepted = "tokenizer.json or vocab.txt, vocab.json with merges.txt, or a SentencePiece model"
    raise InputError(f"{folder}: found no tokenizer; accepted: {accepted}")


def adapt(backend: tokenizers.Tokenizer, config: dict[str, Any]) -> None:
    """Apply the options of the config, which override tokenizer.json.

    They matter because, for example, some cased and uncased models share one tokenizer.json.
    """
    if isinstance(backend.normalizer, normalizers.BertNormalizer):
        backend.normalizer = _bert_normalizer(config, backend.normalizer)
    prefix = config.get("add_prefix_space")
    before = backend.pre_tokenizer
    if prefix is None or not isinstance(before, pre_tokenizers.ByteLevel):
        return
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=prefix, trim_offsets=before.trim_offsets, use_regex=before.use_regex
    )
    if isinstance(backend.post_processor, processors.RobertaProcessing):
        parts = json.loads(backend.post_processor.__getstate__())
        backend.post_processor = processors.RobertaProcessing(
            tuple(parts["sep"]), tuple(parts["cls"]), parts["trim_offsets"], prefix
        )


def options(backend: tokenizers.Tokenizer) -> dict[str, Any]:
    """The current values of the options that `adapt` applies, to save them in the config."""
    if isinstance(backend.normalizer, normalizers.BertNormalizer):
        return {ours: getattr(backend.normalizer, name) for ours, name in BERT_OPTIONS.items()}
    if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        return {"add_prefix_space": backend.pre_tokenizer.add_prefix_space}
    return {}


def finish_bert(backend: tokenizers.Tokenizer, names: dict[str, str]) -> None:
    """Set BERT's decoder, and add BERT's special tokens around texts."""
    cls, sep = names["cls"], names["sep"]
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in (cls, sep)],
    )


def finish_roberta(backend: tokenizers.Tokenizer, names: dict[str, str], prefix: bool) -> None:
    """Set RoBERTa's decoder, and add RoBERTa's special tokens around texts."""
    sep, cls = ((names[role], _id(backend, names[role])) for role in ("sep", "cls"))
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(sep, cls, True, prefix)


def _id(backend: tokenizers.Tokenizer, token: str) -> int:
    number = backend.token_to_id(token)
    assert number is not None, token
    return number


def _by_class(config: dict[str, Any], model_config: dict[str, Any]) -> str:
    for found in (config.get("tokenizer_class"), model_config.get("tokenizer_class")):
        name = spelled(str(found or "").removesuffix("Fast").removesuffix("Tokenizer"))
        if name not in GENERAL:
            return name
    return ""


def _check_family(file: Path, name: str, *layouts: dict[str, str]) -> None:
    """Raise InputError for a family without these layouts, as it may split texts differently."""
    if name and MEMBERS.get(name) not in layouts:
        members = [member for member, layout in MEMBERS.items() if layout in layouts]
        raise InputError(
            f"{file}: of the family '{name}', which needs a tokenizer.json; accepted without: "
            + ", ".join(members)
        )


def _wordpiece(file: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """BERT's tokenizer from a vocab.txt with one token per line."""
    lines = read_text(file).removesuffix("\n").split("\n")
    vocab = {token: number for number, token in enumerate(lines)}
    names = _names(config, BERT)
    for role in ("unk", "cls", "sep"):
        if names[role] not in vocab:
            there = f"no line '{names[role]}'"
            raise InputError(f"{file}: {there}; accepted: a vocabulary of BERT's kind")
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=names["unk"]))
    backend.normalizer = _bert_normalizer(config, normalizers.BertNormalizer())
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    finish_bert(backend, names)
    return backend


def _bert_normalizer(
    config: dict[str, Any], default: normalizers.BertNormalizer
) -> normalizers.BertNormalizer:
    """BERT's normalizer with the options of tokenizer_config.json."""
    chosen = {theirs: getattr(default, theirs) for theirs in BERT_OPTIONS.values()}
    for ours, theirs in BERT_OPTIONS.items():
        if config.get(ours) is not None:
            chosen[theirs] = config[ours]
    return normalizers.BertNormalizer(clean_text=default.clean_text, **chosen)


def _byte_level(file: Path, merges: Path) -> tokenizers.Tokenizer:
    """Byte-level BPE (Radford et al., 2019) from a file of token ids and a file of merges."""
    vocab = read_json(file)
    for token, number in vocab.items():
        if not isinstance(number, int) or number < 0:
            raise InputError(f"{file}: '{token}': found {number!r:.40}; accepted: an id")
    lines = read_text(merges).split("\n")
    rules = [line for line in lines if line and not line.startswith("#version")]
    pairs: list[Any] = [tuple(rule.split(" ")) for rule in rules]
    for line, pair in enumerate(pairs):
        if len(pair) != 2:
            found = f"rule {line} is {' '.join(pair)!r:.40}"
            raise InputError(f"{merges}: {found}; accepted: two parts")
    try:
        model = models.BPE(vocab, pairs, continuing_subword_prefix="", end_of_word_suffix="")
    except Exception as error:  # the library raises plain Exceptions
        raise InputError(f"{merges}: {error}; accepted: merges of {file.name}'s tokens") from error
    return tokenizers.Tokenizer(model)


def _as_roberta(
    backend: tokenizers.Tokenizer, config: dict[str, Any], file: Path
) -> tokenizers.Tokenizer:
    names = _names(config, ROBERTA)
    for role in ("cls", "sep"):
        if backend.token_to_id(names[role]) is None:
            raise InputError(f"{file}: no '{names[role]}'; accepted: RoBERTa's special tokens")
    prefix = bool(config.get("add_prefix_space"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    finish_roberta(backend, names, prefix)
    return backend


def _as_gpt2(
    backend: tokenizers.Tokenizer, config: dict[str, Any], file: Path
) -> tokenizers.Tokenizer:
    names = _names(config, GPT2)
    prefix = bool(config.get("add_prefix_space"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    first = f"{names['bos']}:{{0}} " if config.get("add_bos_token") else ""
    last = f" {names['eos']}:{{0}}" if config.get("add_eos_token") else ""
    single, second = f"{first}$A:{{0}}{last}", f"{first}$B:{{0}}{last}"
    added = [names[role] for role, used in (("bos", first), ("eos", last)) if used]
    for token in added:
        if backend.token_to_id(token) is None:
            raise InputError(f"{file}: no '{token}', which the config adds to each text")
    backend.post_processor = processors.TemplateProcessing(
        single=single.format(0),
        pair=f"{single.format(0)} {second.format(1)}",
        special_tokens=[(token, _id(backend, token)) for token in dict.fromkeys(added)],
    )
    return backend


def _names(config: dict[str, Any], layout: dict[str, str]) -> dict[str, str]:
    """Role -> special token, from the config or else from the layout."""
    return {role: content(config.get(f"{role}_token")) or token for role, token in layout.items()}
