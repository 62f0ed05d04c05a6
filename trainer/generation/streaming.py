"""TextStreamer: decodes generated tokens into pieces of text that do not change later."""

from collections.abc import Sequence
from itertools import compress

from trainer.tokenizer import Tokenizer

UNFINISHED = "\ufffd"
"""The replacement character, into which tokenizers decode an incomplete character."""


class TextStreamer:
    """Decodes generated tokens into pieces of text that do not change later.

    A stop text may contain special tokens. The pieces contain neither stop texts nor, by default,
    special tokens. The time per token does not depend on the length of the text.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str], shows_special: bool = False
    ) -> None:
        """Start with an empty text.

        With `shows_special`, the pieces contain special tokens, except the last token of the text.
        """
        self.stopped = False
        """Whether a stop text was found; then no more tokens may be added."""
        self._tokenizer = tokenizer
        self._stop = stop
        self._shows_special = shows_special
        self._window: list[int] = []
        self._decoded = 0, ""  # how many first tokens of the window are decoded, and their text
        self._pending = ""  # characters that are not returned yet, since a stop text may start here
        self._shown: list[bool] = []  # whether each pending character belongs in a piece

    def add(self, token: int, last: bool = False) -> str:
        """Add a token; returns the text that can no longer change, and with `last` all text."""
        special = self._tokenizer.special_texts.get(token)
        if special is None:
            self._window.append(token)
        self._add_pending(self._new_text(last or special is not None), shown=True)
        self._add_pending(special or "", shown=self._shows_special and not last)
        starts = [start for stop in self._stop if (start := self._pending.find(stop)) >= 0]
        self.stopped = bool(starts)
        end = min(starts, default=len(self._pending) - (0 if last else self._num_stop_characters()))
        piece = "".join(compress(self._pending, self._shown[:end]))
        self._pending, self._shown = self._pending[end:], self._shown[end:]
        return piece

    def _add_pending(self, text: str, shown: bool) -> None:
        self._pending += text
        self._shown += [shown] * len(text)

    def _new_text(self, incomplete: bool) -> str:
        """The text that the newest tokens add; incomplete characters only with `incomplete`.

        It is decoded together with the previous piece, since decoders strip the first space.
        """
        count, before = self._decoded
        text = self._tokenizer.decode(self._window)
        if text.endswith(UNFINISHED) and not incomplete:
            return ""
        new = text[len(before) :]
        if new:
            self._window = self._window[count:]
            self._decoded = len(self._window), self._tokenizer.decode(self._window)
        return new

    def _num_stop_characters(self) -> int:
        """The number of pending characters at the end that may be the start of a stop text."""
        lengths = (
            length
            for stop in self._stop
            for length in range(1, min(len(stop), len(self._pending) + 1))
            if self._pending.endswith(stop[:length])
        )
        return max(lengths, default=0)
