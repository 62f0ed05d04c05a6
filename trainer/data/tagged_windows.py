"""Tagged windows: makes the windows and labels that a token classifier is trained on."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainer.data import word_windows
from trainer.data.tagged_rows import TaggedRows

if TYPE_CHECKING:
    from trainer.tokenizer import Tokenizer


def tagged_windows(
    tagged: TaggedRows,
    rows: Mapping[str, Sequence[Any]],
    tokenizer: "Tokenizer",
    *,
    max_length: int,
    stride: int,
    all_pieces: bool,
) -> dict[str, list[Any]]:
    """Columns for `Recipe.features`: the windows of each row, with labels if rows have tags.

    With `all_pieces`, all tokens (pieces) of a word have a label; otherwise only the first has one.
    Raises RowError and AnswerError for rows that cannot be used.
    """
    inputs = tagged.inputs(rows)
    columns: dict[str, list[Any]] = {}
    for row, words in enumerate(word_windows.encode_words(inputs, tokenizer)):
        windows = word_windows.windows_of(words, max_length, stride)
        decided = word_windows.deciding_windows(words, windows)
        made = word_windows.token_columns(words, windows, decided)
        if tagged.label in rows:
            ids = tagged.ids(inputs[row], rows[tagged.label][row], words, row)
            continued = tagged.continued_ids() if all_pieces else None
            made["labels"] = word_windows.token_labels(words, windows, decided, ids, continued)
        if "token_type_ids" not in tokenizer.model_input_names:
            del made["token_type_ids"]
        for name, entries in made.items():
            columns.setdefault(name, []).append(entries)
    return columns
