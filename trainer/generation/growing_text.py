"""GrowingText: tokens as they come, to pieces of text that stay as they are."""

from collections.abc import Sequence
from itertools import compress

from trainer.tokenizer import Tokenizer

UNFINISHED = "\ufffd"
"""What bytes that are not yet a character are decoded to."""


class GrowingText:
    """Tokens as they come -> pieces of text that stay as they are.

    Stop texts are looked for among special tokens too; pieces are without both. A piece costs the
    same however long the text has become.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self.stopped = False
        """Whether a stop text came: nothing more is added"""
        self._tokenizer = tokenizer
        self._stop = stop
        added = tokenizer.backend.get_added_tokens_decoder().items()
        self._special = {number: token.content for number, token in added if token.special}
        self._window: list[int] = []
        self._decoded = 0, ""  # so many first tokens of the window, and their text
        self._held = ""  # characters that a stop text may start in
        self._shown: list[bool] = []  # of each of them: whether no special token put it there

    def add(self, token: int, last: bool = False) -> str:
        """The piece that is sure now that `token` came; all that is held back if it is the last."""
        special = self._special.get(token)
        if special is None:
            self._window.append(token)
        self._hold(self._new_text(last or special is not None), shown=True)
        self._hold(special or "", shown=False)
        places = [place for stop in self._stop if (place := self._held.find(stop)) >= 0]
        self.stopped = bool(places)
        end = min(places, default=len(self._held) - (0 if last else self._started()))
        piece = "".join(compress(self._held, self._shown[:end]))
        self._held, self._shown = self._held[end:], self._shown[end:]
        return piece

    def _hold(self, text: str, shown: bool) -> None:
        self._held += text
        self._shown += [shown] * len(text)

    def _new_text(self, halves: bool) -> str:
        """What the newest tokens add to the text; half characters only if `halves` are wanted.

        They are decoded after those of the last piece: a decoder drops the space before a first.
        """
        count, before = self._decoded
        text = self._tokenizer.decode(self._window)
        if text.endswith(UNFINISHED) and not halves:
            return ""
        new = text[len(before) :]
        if new:
            self._window = self._window[count:]
            self._decoded = len(self._window), self._tokenizer.decode(self._window)
        return new

    def _started(self) -> int:
        """Characters at the end that a stop text may start with."""
        lengths = (
            length
            for stop in self._stop
            for length in range(1, min(len(stop), len(self._held) + 1))
            if self._held.endswith(stop[:length])
        )
        return max(lengths, default=0)
