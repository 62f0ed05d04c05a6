"""Entities: groups tokens into entities with transformers' aggregation strategies."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

STRATEGIES = ("none", "simple", "first", "max", "average")


@dataclass(frozen=True)
class ScoredToken:
    """A token of a text."""

    word: str
    scores: "Tensor"
    """The probability of each of C labels, [C]."""
    start: int
    end: int
    index: int
    continues: bool
    """Whether the token belongs to the same word as the token before it."""


def entities_of(
    tokens: Sequence[ScoredToken],
    strategy: str,
    joined: Callable[[Sequence[str]], str],
    names: Mapping[int, str],
) -> list[dict[str, Any]]:
    """Group labeled tokens into entities; adjacent tokens with the same tag form a group.

    Strategy "none" returns each token without grouping, "simple" groups tokens, and the others
    group whole words. The scores of a word are those of its first token ("first"), those of its
    most confident token ("max"), or the average of its tokens ("average").
    """
    if strategy in ("none", "simple"):
        labelled = [
            {**_label(token.scores, names), "index": token.index, **_location([token], token.word)}
            for token in tokens
        ]
    else:
        labelled = [
            {
                **_label(_of_word(word, strategy), names),
                **_location(word, joined([token.word for token in word])),
            }
            for word in _words(tokens)
        ]
    return labelled if strategy == "none" else _groups(labelled, joined)


def without_overlaps(entities: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Remove overlapping entities, which come from overlapping windows of a long text.

    The longest of them is kept; if several are equally long, the most confident one is kept.
    """
    found: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda each: each["start"]):
        if not found or not found[-1]["start"] <= entity["start"] < found[-1]["end"]:
            found.append(entity)
        elif _rank(entity) > _rank(found[-1]):
            found[-1] = entity
    return found


def _rank(entity: Mapping[str, Any]) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]


def _label(scores: "Tensor", names: Mapping[int, str]) -> dict[str, Any]:
    best = int(scores.argmax())
    return {"entity": names[best], "score": float(scores[best])}


def _location(tokens: Sequence[ScoredToken], word: str) -> dict[str, Any]:
    return {"word": word, "start": tokens[0].start, "end": tokens[-1].end}


def _of_word(word: Sequence[ScoredToken], strategy: str) -> "Tensor":
    import torch

    if strategy == "first":
        return word[0].scores
    if strategy == "max":
        return max(word, key=lambda token: float(token.scores.max())).scores
    return torch.stack([token.scores for token in word]).nanmean(0)


def _words(tokens: Sequence[ScoredToken]) -> Iterator[list[ScoredToken]]:
    word: list[ScoredToken] = []
    for token in tokens:
        if word and not token.continues:
            yield word
            word = []
        word.append(token)
    if word:
        yield word


def _groups(
    labelled: Sequence[dict[str, Any]], joined: Callable[[Sequence[str]], str]
) -> list[dict[str, Any]]:
    """Group adjacent tokens with the same tag; a label that starts with B- begins a new group."""
    groups: list[list[dict[str, Any]]] = []
    for each in labelled:
        begins = each["entity"].startswith("B-")
        if groups and not begins and _tag(each["entity"]) == _tag(groups[-1][-1]["entity"]):
            groups[-1].append(each)
        else:
            groups.append([each])
    return [
        {
            "entity_group": group[0]["entity"].split("-", 1)[-1],
            "score": sum(each["score"] for each in group) / len(group),
            "word": joined([each["word"] for each in group]),
            "start": group[0]["start"],
            "end": group[-1]["end"],
        }
        for group in groups
    ]


def _tag(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label
