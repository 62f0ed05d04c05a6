"""Training a tokenizer: a vocabulary learnt from texts, the same one for the same texts."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, models, pre_tokenizers, trainers

from trainer.errors import InputError, RowError
from trainer.tokenizer.lengths import accept_number

DIGITS = 5
"""Of a Unigram score: the library adds in the order of a hash map, which shows in the last ones."""
RARE_STEP = 1e-4
"""Between the scores that the library gives, in the order of a hash map, to unlearnt characters."""
NEAR = 1e-6
"""How close to a whole number of such steps a score is that was given so."""


def retrained(
    template: tokenizers.Tokenizer,
    texts: Iterable[str | Sequence[str]],
    vocab_size: int,
    new_special_tokens: Sequence[str | AddedToken] = (),
) -> tokenizers.Tokenizer:
    """A tokenizer with the steps and special tokens of `template`, and a vocabulary of `texts`.

    Raises InputError where there is no text, or where `vocab_size` is less than special tokens
    and single characters need.
    """
    accept_number("vocab_size", vocab_size, at_least=1)
    parts = json.loads(template.to_str())
    kind = parts["model"]["type"]
    if kind not in _LEARN:
        raise InputError(f"training: found a model of kind {kind}; accepted: {', '.join(_LEARN)}")
    special = _special_tokens(template, new_special_tokens)
    names = [token.content for token in special]
    parts["model"] |= _LEARN[kind](template, parts["model"], _Texts(texts), vocab_size, names)
    ids = _ids(parts["model"]["vocab"])
    if len(ids) > vocab_size:
        accepted = f"{len(ids)} or more, which special tokens and characters of the texts take"
        raise InputError(f"vocab_size: found {vocab_size}; accepted: {accepted}")
    parts["added_tokens"] = [{"id": ids[t.content], **t.__getstate__()} for t in special]
    _renumber(parts["post_processor"], ids)
    parts["truncation"] = parts["padding"] = None
    return tokenizers.Tokenizer.from_str(json.dumps(parts))


class _Texts:
    """The texts of an iterable, of strings or of lists of them, as often as they are asked for."""

    def __init__(self, texts: Iterable[str | Sequence[str]]) -> None:
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            found = type(texts).__name__
            raise InputError(f"iterator: found {found}; accepted: strings or lists of strings")
        # What can be gone through once is kept: some kinds need the texts twice.
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


def _is_list(item: Any) -> bool:
    return isinstance(item, Iterable) and not isinstance(item, (bytes, dict))


def _learn_pieces(
    template: tokenizers.Tokenizer,
    model: dict[str, Any],
    texts: _Texts,
    vocab_size: int,
    special: list[str],
) -> dict[str, Any]:
    """WordPiece or BPE: pairs joined in order of frequency.

    The library numbers characters inside words in the order of a hash map, and equal frequencies
    are decided by those numbers. Listed as if they were special they have a fixed order.
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
    bare = tokenizers.Tokenizer(models.BPE(**affixes))
    found = _train(bare, template, texts, trainer)
    learnt = {"vocab": found["vocab"]}
    return learnt if model["type"] == "WordPiece" else learnt | {"merges": found["merges"]}


def _alphabet(
    template: tokenizers.Tokenizer, texts: _Texts, prefix: str | None, suffix: str | None
) -> list[str]:
    """The characters of the texts as they begin, continue and end words, sorted."""
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
        for place, letter in enumerate(word):
            start = prefix or "" if place else ""
            end = suffix or "" if place == len(word) - 1 else ""
            forms.add(start + letter + end)
    return sorted(forms)


def _bytes(template: tokenizers.Tokenizer) -> list[str]:
    """The 256 letters of byte-level BPE, which has no unknown text; none for other kinds."""
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
    """Unigram (Kudo, 2018): the pieces that make the texts likeliest, each with its score."""
    unknown = None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=special, unk_token=unknown, show_progress=False
    )
    try:
        found = _train(tokenizers.Tokenizer(models.Unigram()), template, texts, trainer)
    except InputError:
        raise
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"vocab_size: found {vocab_size}; accepted: more ({error})") from error
    pieces = [(piece, score) for piece, score in found["vocab"] if piece not in special]
    vocab = [(token, 0.0) for token in special] + _in_order(pieces)
    return {"vocab": vocab, "unk_id": None if unknown is None else special.index(unknown)}


def _in_order(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Pieces by score; those of equal score, and the unlearnt characters, by code point."""
    scores = dict(pieces)
    lowest = min(scores.values(), default=0.0)
    steps = {piece: (score - lowest) / RARE_STEP for piece, score in pieces if len(piece) == 1}
    rare = sorted(piece for piece, step in steps.items() if abs(step - round(step)) < NEAR)
    scores |= dict(zip(rare, sorted(scores[piece] for piece in rare), strict=True))
    rounded = [(piece, round(score, DIGITS)) for piece, score in scores.items()]
    return sorted(rounded, key=lambda pair: (-pair[1], pair[0]))


def _train(
    bare: tokenizers.Tokenizer, template: tokenizers.Tokenizer, texts: _Texts, trainer: Any
) -> dict[str, Any]:
    """The model that a trainer of the library makes of texts, as tokenizer.json has it."""
    for part in ("normalizer", "pre_tokenizer"):
        if (step := getattr(template, part)) is not None:
            setattr(bare, part, step)
    bare.train_from_iterator(iter(texts), trainer)
    return json.loads(bare.to_str())["model"]


def _special_tokens(
    template: tokenizers.Tokenizer, new: Sequence[str | AddedToken]
) -> list[AddedToken]:
    """The special tokens of a tokenizer by id, then the new ones."""
    added = template.get_added_tokens_decoder()
    tokens = [token for _, token in sorted(added.items()) if token.special]
    tokens += [AddedToken(t, special=True) if isinstance(t, str) else t for t in new]
    return list({token.content: token for token in tokens}.values())


def _ids(vocab: Any) -> dict[str, int]:
    if isinstance(vocab, dict):
        return vocab
    return {piece: number for number, (piece, _) in enumerate(vocab)}


def _renumber(processor: Any, ids: dict[str, int]) -> None:
    """Give the special tokens of a post-processor, as tokenizer.json has it, their new ids."""
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
