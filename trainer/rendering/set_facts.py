"""Set facts: describes the content of a prepared data set in lines of text."""

from collections.abc import Mapping

from rich.text import Text

from trainer.data.near_copies import Copies
from trainer.data.set_facts import SetFacts
from trainer.plurals import plural
from trainer.rendering.figures import share
from trainer.rendering.layout import labelled
from trainer.rendering.start import MOST_CLASSES


def facts_text(where: str, facts: SetFacts) -> Text:
    """One line each for the size, lengths, classes and copied samples of a set."""
    lengths = ", ".join(f"{name} {value:,}" for name, value in facts.lengths.items())
    cut = f"; {plural(facts.truncated, 'row')} cut" if facts.truncated else ""
    lines = {
        where: f"{plural(facts.samples, 'sample')}, {plural(facts.tokens, 'token')}",
        "lengths": f"{lengths}{cut}",
    }
    if facts.classes:
        lines["classes"] = _counts(facts.classes)
    if facts.dropped:
        lines["dropped"] = plural(facts.dropped, "bad row")
    if facts.copies is not None:
        lines["copies"] = _copies(facts.copies, facts.samples, "repeated", "nearly repeated")
    for name, found in facts.trained.items():
        lines[f"in {name}"] = _copies(found, facts.samples, "there too", "nearly there too")
    return labelled(lines).append("\n")


def _counts(classes: Mapping[str, int]) -> str:
    shown = [f"{name} {number:,}" for name, number in list(classes.items())[:MOST_CLASSES]]
    more = len(classes) - len(shown)
    return ", ".join(shown) + (f", and {more:,} more" if more else "")


def _copies(found: Copies, samples: int, exactly: str, nearly: str) -> str:
    """The numbers of texts that are copies: "3 repeated (1 %), 5 nearly repeated (2 %)".

    If the samples are blocks, the texts are documents, and their number is shown too.
    """
    counts = {exactly: found.exact, nearly: found.near}
    if not found.compared:
        del counts[nearly]
    shown = [f"{n:,} {how} ({share(n / found.texts)})" for how, n in counts.items() if n]
    documents = "" if found.texts == samples else f" of {plural(found.texts, 'document')}"
    return (", ".join(shown) or "none") + documents
