"""Tagged words: a token classifier's tags for the words of each sample."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.data import tag_schemes
from trainer.data.tag_schemes import Span
from trainer.data.word_windows import given_words
from trainer.models.outputs import Outputs

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.data.batch import OwnBatch
    from trainer.tasks.columns import Columns


@dataclass(frozen=True)
class TaggedWords:
    """The W words of one sample with their tags, in the order of the text."""

    tags: list[str]
    starts: list[int]
    """[W], the index of each word's first character."""
    ends: list[int]
    """[W], the index of the character after each word."""
    scores: list[float]
    """[W], the probability of each tag."""

    def spans(self) -> list[Span]:
        """The spans that the tags form, in characters."""
        found = tag_schemes.spans_of(self.tags)
        return [(self.starts[first], self.ends[last - 1], kind) for first, last, kind in found]

    def entities(self, text: str | None) -> list[dict[str, Any]]:
        """The spans as answers: label, score (the mean over its words), start, end and text."""
        found = []
        for first, last, kind in tag_schemes.spans_of(self.tags):
            start, end = self.starts[first], self.ends[last - 1]
            score = sum(self.scores[first:last]) / (last - first)
            entity: dict[str, Any] = {"label": kind, "score": score, "start": start, "end": end}
            found.append(entity | ({} if text is None else {"text": text[start:end]}))
        return found

    def answer(self, row: str | Sequence[str] | None, scheme: str) -> dict[str, Any]:
        """The answer for a row's text or words; `row` is None if it is not known.

        In a row of words every word gets a tag. A word without tokens gets the tag O, or null if
        tags are classes.
        """
        if row is None or isinstance(row, str):
            if scheme != "none":
                return {"entities": self.entities(row)}
            places = zip(self.starts, self.ends, strict=True)
            words = {} if row is None else {"words": [row[start:end] for start, end in places]}
            return words | {"tags": self.tags}
        by_start = dict(zip(self.starts, self.tags, strict=True))
        default = None if scheme == "none" else tag_schemes.OUTSIDE
        tags = {"tags": [by_start.get(start, default) for start, _ in given_words(row)]}
        return tags if scheme == "none" else {"entities": self.entities(" ".join(row))} | tags


def tagged_words(columns: "Columns", name: str, labels: Sequence[str]) -> Iterator[TaggedWords]:
    """Yield each sample's words with their tags from the column `name` (tags or references)."""
    for sample in range(len(columns[name])):
        starts = columns["starts"][sample]
        is_word = starts >= 0
        tags, ends, scores = (columns[key][sample][is_word] for key in (name, "ends", "scores"))
        names = [labels[number] for number in tags.tolist()]
        yield TaggedWords(names, starts[is_word].tolist(), ends.tolist(), scores.tolist())


def chains(batch: "OwnBatch") -> tuple["Tensor", "Tensor"]:
    """The tokens that represent words, as indices, and each sample's number of words on the CPU."""
    from trainer.models.packing import to_device

    starts = batch.on_host.get(
        "starts", batch["starts"]
    )  # on the CPU, so that counting does not synchronize with the device
    places = (starts >= 0).nonzero().squeeze(1)
    sample = batch.host_owners.repeat_interleave(batch.sequence_lengths)[places]
    return to_device(places, batch["starts"].device), sample.bincount(minlength=batch.num_samples)


def chain_loss(outputs: Outputs, batch: "OwnBatch") -> tuple["Tensor", "Tensor"]:
    """The loss of a CRF over the words of each sample: sums [N], counts [N]."""
    from trainer.tasks.crf import crf_loss

    places, lengths = chains(batch)
    labels = batch["labels"][places]
    return crf_loss(outputs.logits[places], labels, lengths, outputs.transitions)


def tag_predictions(
    outputs: Outputs, batch: "OwnBatch", transitions: "Tensor | None"
) -> dict[str, "Tensor"]:
    """The tags [T] of a batch, their probabilities and positions, and the references if known."""
    tags, scores = best_tags(outputs.logits.float(), batch, transitions)
    found = {"tags": tags, "scores": scores}
    found |= {name: batch[name] for name in ("starts", "ends")}
    if "labels" in batch:
        found["references"] = batch["labels"]
    return found


def best_tags(
    logits: "Tensor", batch: "OwnBatch", transitions: "Tensor | None"
) -> tuple["Tensor", "Tensor"]:
    """The best tags [T] and their probabilities [T].

    With a CRF's `transitions`, words get the tags of their sample's best path with their marginal
    probabilities. Other tokens, and all tokens without a CRF, get the tag with the largest logit.
    """
    from trainer.tasks.crf import best_paths, marginals

    probabilities, tags = logits.softmax(-1), logits.argmax(-1)
    if transitions is not None:
        places, lengths = chains(batch)
        probabilities[places] = marginals(logits[places], lengths, transitions)
        tags[places] = best_paths(logits[places], lengths, transitions)
    return tags, probabilities.gather(-1, tags.unsqueeze(-1)).squeeze(-1)
