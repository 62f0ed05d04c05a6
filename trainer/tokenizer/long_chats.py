"""Long chats: every answer's place in the whole text, without rendering every prefix of the chat.

The text of a chat usually is the texts of its turns, one after the other. So each turn is rendered
after the first answer alone, and the pieces must add up to the whole text. Where they do not, the
template rewrites what was said before, and whoever asks has to render each prefix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainer.tokenizer.templates import Rendering, Request

LONG = 6
"""Answers of a chat that is worth the three renderings of each turn, and those that check them."""

Messages = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class LongPlan:
    """What to render of a chat: the whole, its start, and each later turn after that start."""

    messages: Messages
    answers: Sequence[int]
    """Places of all answers up to the last that is trained on."""
    chosen: frozenset[int]
    """Those that are trained on."""

    @property
    def requests(self) -> list[Request]:
        """The renderings that `answers_of` takes, in its order."""
        first, *later = self.answers
        found: list[Request] = [(self.messages[: self.answers[-1] + 1], False)]
        found += [(self.messages[:first], True), (self.messages[: first + 1], False)]
        for before, answer in zip(self.answers, later, strict=False):
            context, turn = self._turn(before, answer)
            found += [(context, False), ([*context, *turn[:-1]], True), ([*context, *turn], False)]
        return found + [(self.messages[:answer], True) for answer in self._checked]

    @property
    def _checked(self) -> list[int]:
        """Answers whose prompt is rendered in full, to compare."""
        return [self.answers[len(self.answers) // 2], self.answers[-1]]

    def _turn(self, before: int, answer: int) -> tuple[Messages, Messages]:
        """The messages after an answer up to the next, and the shortest chat that they may follow.

        That is the first answer's; for the results of tools also the question and the call.
        """
        context = [*self.messages[: self.answers[0] + 1]]
        if self.messages[before + 1]["role"] == "tool" and before != self.answers[0]:
            users = [n for n in range(before) if self.messages[n]["role"] == "user"]
            context += [self.messages[users[-1]]] * (users[-1] > self.answers[0])
            context.append(self.messages[before])
        return context, self.messages[before + 1 : answer + 1]

    def answers_of(self, parts: Sequence[Rendering]) -> tuple[str, list[tuple[int, int]]] | None:
        """The whole text and the spans of the chosen answers; None where the turns do not add up.

        `parts` are the renderings of `requests`.
        """
        whole, prompt, start = (part.text for part in parts[:3])
        if not start.startswith(prompt):
            return None
        places = {self.answers[0]: (len(prompt), len(start))}
        pieces, end = [start], len(start)
        for number, answer in enumerate(self.answers[1:], 1):
            before, asked, answered = (part.text for part in parts[3 * number : 3 * number + 3])
            if not (asked.startswith(before) and answered.startswith(asked)):
                return None
            begins = end + len(asked) - len(before)
            pieces.append(answered[len(before) :])
            end += len(pieces[-1])
            places[answer] = (begins, end)
        if "".join(pieces) != whole or not self._agree(parts[-2:], whole, places):
            return None
        return whole, [places[answer] for answer in self.answers if answer in self.chosen]

    def _agree(
        self, prompts: Sequence[Rendering], whole: str, places: dict[int, tuple[int, int]]
    ) -> bool:
        """Whether the prompts that were rendered in full end where the pieces say."""
        return all(
            whole.startswith(prompt.text) and len(prompt.text) == places[answer][0]
            for answer, prompt in zip(self._checked, prompts, strict=True)
        )
