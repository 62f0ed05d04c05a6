"""Tag schemes: converts word tags (IO, BIO, BIOES) to spans and back, and checks them."""

import re
from collections.abc import Iterable, Sequence

from trainer.errors import InputError

SCHEMES = {"IO": "I", "BIO": "BI", "BIOES": "BIES", "none": ""}
"""Scheme -> the prefixes of its tags. The tags of `none` are classes, such as parts of speech."""
OUTSIDE = "O"
"""The tag of a word outside of all spans."""
TAG = re.compile(r"([BIESLU])-(.+)", re.S)
CONTINUED = {"B": "I", "S": "E"}
"""Prefix of a word's first token -> prefix of its other tokens; other prefixes stay the same."""

Span = tuple[int, int, str]
"""(start, end, type): the words (or characters) from start up to, but not including, end."""


def split_tag(tag: str) -> tuple[str, str]:
    """A tag's prefix and type: B-per is ("B", "per"), O is ("O", ""), and per is ("I", "per")."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    found = TAG.fullmatch(tag)
    return (found[1], found[2]) if found else ("I", tag)


def spans_of(tags: Sequence[str]) -> list[Span]:
    """The spans of a row of tags, by the rules of seqeval, even if the tags break their scheme.

    A tag I or E continues a span of the same type, unless the tag before it is E or S. Any other
    tag except O starts a new span.
    """
    spans: list[Span] = []
    start, open_type = 0, ""
    before = OUTSIDE
    for position, tag in enumerate(tags):
        prefix, kind = split_tag(tag)
        goes_on = prefix in "IE" and before in "BI" and kind == open_type
        if open_type and not goes_on:
            spans.append((start, position, open_type))
            open_type = ""
        if prefix != OUTSIDE and not goes_on:
            start, open_type = position, kind
        before = prefix
    if open_type:
        spans.append((start, len(tags), open_type))
    return spans


def tags_of(spans: Iterable[Span], num_words: int, scheme: str, bare: bool = False) -> list[str]:
    """A tag for each word; spans must not overlap.

    With `bare`, tags of the scheme IO have no prefix I.
    """
    tags = [OUTSIDE] * num_words
    for start, end, kind in spans:
        for position in range(start, end):
            prefix = _prefix(scheme, position == start, position == end - 1)
            tags[position] = kind if bare else f"{prefix}-{kind}"
    return tags


def _prefix(scheme: str, first: bool, last: bool) -> str:
    if scheme == "BIOES" and last:
        return "S" if first else "E"
    return "B" if first and scheme != "IO" else "I"


def scheme_or_none(tags: Iterable[str]) -> str:
    """The result of `scheme_of`, or "none" (tags are classes) if it raises InputError."""
    try:
        return scheme_of(tags)
    except InputError:
        return "none"


def scheme_of(tags: Iterable[str]) -> str:
    """Detect the scheme of a data set's tags.

    It is BIOES if a tag has the prefix E or S, else BIO if a tag has the prefix B, else IO. It is
    "none" if no tag has a prefix and no tag is O. Raises InputError for BILOU, and if only some
    tags have a prefix.
    """
    names = [tag for tag in tags if tag != OUTSIDE]
    prefixed = [match for name in names if (match := TAG.fullmatch(name))]
    prefixes = {match[1] for match in prefixed}
    if prefixes & {"L", "U"}:
        raise InputError(
            "recipe.label: found tags in the scheme BILOU; accepted: BIOES (E for L, and S for U)"
        )
    if prefixed and len(prefixed) < len(names):
        bare = next(name for name in names if not TAG.fullmatch(name))
        found = f"tags with a prefix ({prefixed[0][0]}) and without one ({bare})"
        accepted = "IO, BIO, BIOES, or recipe.scheme=none for tags that are classes"
        raise InputError(f"recipe.scheme: found {found}; accepted: {accepted}")
    if not prefixed:
        return "IO" if len(names) < len(set(tags)) else "none"
    return "BIOES" if prefixes & {"E", "S"} else "BIO" if "B" in prefixes else "IO"


def is_bare(tags: Iterable[str]) -> bool:
    """Whether no tag has a prefix."""
    return not any(TAG.fullmatch(tag) for tag in tags)


def complete(tags: Iterable[str], scheme: str) -> list[str]:
    """The labels of a head for these tags: O, then every prefix of each type, in sorted order.

    In the scheme none, or if no tag has a prefix, the tags themselves are the labels.
    """
    found = sorted(set(tags))
    if scheme == "none" or is_bare(found):
        has_outside = scheme == "IO" or OUTSIDE in found
        return [OUTSIDE] * has_outside + [tag for tag in found if tag != OUTSIDE]
    types = sorted({split_tag(tag)[1] for tag in found if tag != OUTSIDE})
    return [OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in SCHEMES[scheme])]


def fault_of(tags: Sequence[str], scheme: str) -> tuple[int, str] | None:
    """The first position at which tags break their scheme, and the reason; None if none does."""
    if scheme in ("IO", "none"):
        return None
    before, open_type = OUTSIDE, ""
    for position, tag in enumerate((*tags, OUTSIDE)):
        prefix, kind = split_tag(tag)
        if prefix not in SCHEMES[scheme] + OUTSIDE:
            return position, f"{tag} is not a tag of {scheme}"
        is_open = before in ("BI" if scheme == "BIOES" else "")
        if is_open and not (prefix in "IE" and kind == open_type):
            after = f"{tag} follows" if position < len(tags) else "the row ends"
            return min(position, len(tags) - 1), f"{after} where {before}-{open_type} is open"
        if prefix in "IE" and not (before in "BI" and kind == open_type):
            previous = tags[position - 1] if position else "the start"
            return position, f"{tag} follows {previous}"
        before, open_type = prefix, kind
    return None
