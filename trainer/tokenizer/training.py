"""Training: builds the vocabulary of a tokenizer from texts, deterministically."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, models, pre_tokenizers, trainers

from trainer.errors import InputError, RowError
from trainer.tokenizer.lengths import accept_number
from trainer.tokenizer.native_calls import Panic, native_call

DIGITS = 5
"""The number of decimals of a Unigram score to keep.

Further decimals vary, since the library sums numbers in the order of a hash map.
"""
RARE_STEP = 1e-4
"""The difference between the scores that the library assigns to rare characters."""
NEAR = 1e-6
"""The tolerance within which a difference of scores counts as a multiple of RARE_STEP."""


def retrained(
    template: tokenizers.Tokenizer,
    texts: Iterable[str | Sequence[str]],
    vocab_size: int,
    new_special_tokens: Sequence[str | AddedToken] = (),
) -> tokenizers.Tokenizer:
    """A tokenizer with the processing steps of `template`, and a vocabulary trained on `texts`.

    Raises InputError if there is no text, or if `vocab_size` is too small for the special tokens
    and the characters of the texts.
    """
    vocab_size = accept_number("vocab_size", vocab_size, at_least=1) or 0
    parts = json.loads(template.to_str())
    kind = parts["model"]["type"]
    if kind not in _LEARN:
        raise InputError(f"training: found a model of kind {kind}; accepted: {', '.join(_LEARN)}")
    special = _special_tokens(template, new_special_tokens)
    names = [token.content for token in special]
    parts["model"] |= _LEARN[kind](template, parts["model"], _Texts(texts), vocab_size, names)
    ids = _ids(parts["model"]["vocab"])
    if len(ids) > vocab_size:
        accepted = f"{len(ids)} or more, for the special tokens and the characters of the texts"
        raise InputError(f"vocab_size: found {vocab_size}; accepted: {accepted}")
    parts["added_tokens"] = [{"id": ids[t.content], **t.__getstate__()} for t in special]
    _renumber(parts["post_processor"], ids)
    parts["truncation"] = parts["padding"] = None
    return tokenizers.Tokenizer.from_str(json.dumps(parts))


def renamed(backend: tokenizers.Tokenizer, names: Mapping[str, str]) -> tokenizers.Tokenizer:
    """A copy in which special tokens have other names, with the same ids and uses.

    `names` maps old to new names. Raises InputError for an old name that is not a special token.
    """
    special = {t.content for t in backend.get_added_tokens_decoder().values() if t.special}
    if unknown := sorted(set(names) - special):
        accepted = ", ".join(sorted(special))
        raise InputError(f"special_tokens_map: found {unknown[0]!r}; accepted: {accepted}")
    parts = json.loads(backend.to_str())
    for token in parts["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = parts["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(token, token): i for token, i in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    _rename(parts["post_processor"], names)
    return tokenizers.Tokenizer.from_str(json.dumps(parts))


def _rename(processor: Any, names: Mapping[str, str]) -> None:
    """Rename the special tokens of a post-processor, an object of tokenizer.json, in place."""
    if processor is None:
        return
    for part in processor.get("processors", []):
        _rename(part, names)
    for role in ("cls", "sep"):
        if role in processor:
            processor[role][0] = names.get(processor[role][0], processor[role][0])
    for piece in (*processor.get("single", []), *processor.get("pair", [])):
        if "SpecialToken" in piece:
            old = piece["SpecialToken"]["id"]
            piece["SpecialToken"]["id"] = names.get(old, old)
    table = processor.get("special_tokens") or {}
    for old in [name for name in table if name in names]:
        entry = table.pop(old)
        table[names[old]] = {**entry, "id": names[old], "tokens": [names[old]]}


class _Texts:
    """The texts of an iterable of strings or lists of strings; it can be iterated repeatedly.

    Raises InputError for an item that is not a string, and if there is no text.
    """

    def __init__(self, texts: Iterable[str | Sequence[str]]) -> None:
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            found = type(texts).__name__
            raise InputError(f"iterator: found {found}; accepted: strings or lists of strings")
        # some kinds of models read the texts twice, so an iterator is stored as a list
        self.texts = list(texts) if isinstance(texts, Iterator) else texts

    def __iter__(self) -> Iterator[str]:
        empty = True
        for row, item in enumerate(self.texts):
            for text in (item,) if isinstance(item, str) or not _is_list(item) else item:
                if not isinstance(text, str):
                    found = f"{text!r:.40} ({type(text).__name__})"
                    raise RowError(row, f"iterator[{row}]: found {found}; accepted: a string")
                empty = empty and not text
                yield text
        if empty:
            raise InputError("iterator: found no text; accepted: strings or lists of strings")


def _is_list(item: object) -> bool:
    return isinstance(item, Iterable) and not isinstance(item, (bytes, dict))


def _learn_pieces(
    template: tokenizers.Tokenizer,
    model: dict[str, Any],
    texts: _Texts,
    vocab_size: int,
    special: list[str],
) -> dict[str, Any]:
    """Train WordPiece or BPE, which merge the pair with the highest frequency first.

    Ties between pairs are broken by the ids of the characters. The library assigns ids to
    characters with affixes in the order of a hash map, which varies. So these characters are passed
    as special tokens, in a fixed order.
    """
    names = ("continuing_subword_prefix", "end_of_word_suffix")
    affixes: dict[str, Any] = {name: model[name] for name in names if model.get(name)}
    alphabet = _alphabet(template, texts, *map(model.get, names)) if affixes else []
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(dict.fromkeys([*special, *alphabet])),
        initial_alphabet=_bytes(template),
        show_progress=False,
        **affixes,
    )
    untrained = tokenizers.Tokenizer(models.BPE(**affixes))
    found = _train(untrained, template, texts, trainer)
    vocab = {"vocab": found["vocab"]}
    return vocab if model["type"] == "WordPiece" else vocab | {"merges": found["merges"]}


def _alphabet(
    template: tokenizers.Tokenizer, texts: _Texts, prefix: str | None, suffix: str | None
) -> list[str]:
    """The characters of the texts, with affixes for their positions in words, sorted."""
    words: Counter[str] = Counter()
    for text in texts:
        if template.normalizer is not None:
            text = template.normalizer.normalize_str(text)
        if template.pre_tokenizer is None:
            words[text] += 1
        else:
            words.update(word for word, _ in template.pre_tokenizer.pre_tokenize_str(text))
    forms = set()
    for word in filter(None, words):
        for index, character in enumerate(word):
            start = prefix or "" if index else ""
            end = suffix or "" if index == len(word) - 1 else ""
            forms.add(start + character + end)
    return sorted(forms)


def _bytes(template: tokenizers.Tokenizer) -> list[str]:
    """The 256 characters of byte-level BPE; an empty list for other kinds of tokenizers."""
    steps = template.pre_tokenizer
    if steps is None or b'"ByteLevel"' not in steps.__getstate__():
        return []
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _learn_unigram(
    template: tokenizers.Tokenizer,
    model: dict[str, Any],
    texts: _Texts,
    vocab_size: int,
    special: list[str],
) -> dict[str, Any]:
    """Train Unigram (Kudo, 2018), which finds pieces that maximize the likelihood of the texts."""
    unknown = None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=special, unk_token=unknown, show_progress=False
    )
    try:
        found = _train(tokenizers.Tokenizer(models.Unigram()), template, texts, trainer)
    except InputError:
        raise
    except Exception as error:  # the library raises plain Exceptions
        raise InputError(f"vocab_size: found {vocab_size}; accepted: more ({error})") from error
    pieces = [(piece, score) for piece, score in found["vocab"] if piece not in special]
    vocab = [(token, 0.0) for token in special] + _in_order(pieces)
    return {"vocab": vocab, "unk_id": None if unknown is None else special.index(unknown)}


def _in_order(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """The pieces with rounded scores, sorted by score, and by code point if scores are equal.

    The library assigns scores to rare characters in the order of a hash map. These scores are
    assigned again, in the order of the characters.
    """
    scores = dict(pieces)
    lowest = min(scores.values(), default=0.0)
    steps = {piece: (score - lowest) / RARE_STEP for piece, score in pieces if len(piece) == 1}
    rare = sorted(piece for piece, step in steps.items() if abs(step - round(step)) < NEAR)
    scores |= dict(zip(rare, sorted(scores[piece] for piece in rare), strict=True))
    rounded = [(piece, round(score, DIGITS)) for piece, score in scores.items()]
    return sorted(rounded, key=lambda pair: (-pair[1], pair[0]))


def _train(
    untrained: tokenizers.Tokenizer, template: tokenizers.Tokenizer, texts: _Texts, trainer: Any
) -> dict[str, Any]:
    """Train a model with the library; returns the model in the format of tokenizer.json."""
    for part in ("normalizer", "pre_tokenizer"):
        if (step := getattr(template, part)) is not None:
            setattr(untrained, part, step)
    try:
        with native_call():
            untrained.train_from_iterator(iter(texts), trainer)
    except Panic as error:
        raise InputError(f"tokenizer.train: {error}; accepted: another tokenizer.path") from error
    return json.loads(untrained.to_str())["model"]


def _special_tokens(
    template: tokenizers.Tokenizer, new: Sequence[str | AddedToken]
) -> list[AddedToken]:
    """The special tokens of a tokenizer, sorted by id, followed by the new ones."""
    added = template.get_added_tokens_decoder()
    tokens = [token for _, token in sorted(added.items()) if token.special]
    tokens += [AddedToken(t, special=True) if isinstance(t, str) else t for t in new]
    return list({token.content: token for token in tokens}.values())


def _ids(vocab: Any) -> dict[str, int]:
    if isinstance(vocab, dict):
        return vocab
    return {piece: number for number, (piece, _) in enumerate(vocab)}


def _renumber(processor: Any, ids: dict[str, int]) -> None:
    """Set the new ids of the special tokens in a post-processor, an object of tokenizer.json."""
    if processor is None:
        return
    for part in processor.get("processors", []):
        _renumber(part, ids)
    for token in (processor.get("special_tokens") or {}).values():
        token["ids"] = [ids[name] for name in token["tokens"]]
    for role in ("cls", "sep"):
        if role in processor:
            processor[role] = [processor[role][0], ids[processor[role][0]]]


_LEARN: Any = {"WordPiece": _learn_pieces, "BPE": _learn_pieces, "Unigram": _learn_unigram}
