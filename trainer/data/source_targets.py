"""Source targets: tokenizes rows of a source and a target text for an encoder and a decoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.data.rows import text_column
from trainer.errors import AnswerError, RowError

if TYPE_CHECKING:
    from trainer.tokenizer import Tokenizer

ROLES = ("encoder", "decoder")
"""The roles of a sample's sequences, in their order."""


@dataclass(frozen=True)
class SourceTargets:
    """The columns of sources and targets, and their largest lengths."""

    source: str
    target: str
    prefix: str
    """The text to put before every source"""
    limits: tuple[int, int]
    """The largest numbers of tokens of a source and of a target"""

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        """Columns for `Recipe.features`. For rows without targets, the target is a single end
        token.

        Raises RowError for a row without a source, AnswerError for an empty target.
        """
        from trainer.tokenizer.sources import cut, ids_of_source, ids_of_target, num_cut, num_last

        texts = text_column(rows, self.source, "recipe.source")
        _refuse_empty(texts, self.source, RowError)
        sources = ids_of_source(tokenizer, [self.prefix + text for text in texts])
        answered = self.target in rows
        targets = [[tokenizer.eos_token_id or 0]] * len(texts)
        if answered:
            wanted = text_column(rows, self.target, "recipe.target")
            _refuse_empty(wanted, self.target, AnswerError)
            targets = ids_of_target(tokenizer, wanted)
        last = num_last(tokenizer)
        pairs = [list(both) for both in zip(sources, targets, strict=True)]
        columns: dict[str, list[Any]] = {
            "input_ids": [
                [cut(*each, last) for each in zip(both, self.limits, strict=True)] for both in pairs
            ],
            "roles": [[0, 1]] * len(pairs),
            "num_truncated_tokens": [sum(map(num_cut, both, self.limits)) for both in pairs],
        }
        return {**columns, "has_target": [1] * len(pairs)} if answered else columns


def _refuse_empty(texts: Sequence[str], column: str, kind: type[RowError]) -> None:
    """Raise RowError for a row with an empty text."""
    for row, text in enumerate(texts):
        if not text.strip():
            raise kind(row, f"'{column}' is empty; accepted: a text")
