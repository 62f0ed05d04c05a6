"""Long chat spans: finds the answers of a long chat without rendering every prefix of the chat.

The text of a chat is usually the concatenation of its turns. So each turn is rendered directly
after the first answer, and the texts of the turns are joined. If the result differs from the full
text, the template rewrites earlier messages, and the caller has to render each prefix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainer.tokenizer.templates import Rendering, Request

LONG = 6
"""A chat with more answers than this is rendered turn by turn, which is then faster."""

Messages = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class LongPlan:
    """The renderings that a long chat needs: the full chat, its start, and each later turn."""

    messages: Messages
    answers: Sequence[int]
    """The indices of all answers up to the last one that is trained on."""
    chosen: frozenset[int]
    """The indices of the answers that are trained on."""

    @property
    def requests(self) -> list[Request]:
        """The requests whose renderings, in this order, are the argument of `answers_of`."""
        first, *later = self.answers
        found: list[Request] = [(self.messages[: self.answers[-1] + 1], False)]
        found += [(self.messages[:first], True), (self.messages[: first + 1], False)]
        for before, answer in zip(self.answers, later, strict=False):
            context, turn = self._turn(before, answer)
            found += [(context, False), ([*context, *turn[:-1]], True), ([*context, *turn], False)]
        return found + [(self.messages[:answer], True) for answer in self._checked]

    @property
    def _checked(self) -> list[int]:
        """The indices of two answers whose prompts are also rendered in full, as a check."""
        return [self.answers[len(self.answers) // 2], self.answers[-1]]

    def _turn(self, before: int, answer: int) -> tuple[Messages, Messages]:
        """The shortest valid chat before a turn (the context), and the messages of the turn.

        The context is the chat up to the first answer. If the turn begins with results of tools,
        the context also has the question and the tool call that led to these results.
        """
        context = [*self.messages[: self.answers[0] + 1]]
        if self.messages[before + 1]["role"] == "tool" and before != self.answers[0]:
            users = [n for n in range(before) if self.messages[n]["role"] == "user"]
            context += [self.messages[users[-1]]] * (users[-1] > self.answers[0])
            context.append(self.messages[before])
        return context, self.messages[before + 1 : answer + 1]

    def answers_of(self, parts: Sequence[Rendering]) -> tuple[str, list[tuple[int, int]]] | None:
        """The full text and the spans of the chosen answers; None if the joined turns differ.

        `parts` are the renderings of `requests`.
        """
        whole, prompt, start = (part.text for part in parts[:3])
        if not start.startswith(prompt):
            return None
        places = {self.answers[0]: (len(prompt), len(start))}
        pieces, end = [start], len(start)
        for number, answer in enumerate(self.answers[1:], 1):
            before, prompt, answered = (part.text for part in parts[3 * number : 3 * number + 3])
            if not (prompt.startswith(before) and answered.startswith(prompt)):
                return None
            begins = end + len(prompt) - len(before)
            pieces.append(answered[len(before) :])
            end += len(pieces[-1])
            places[answer] = (begins, end)
        if "".join(pieces) != whole or not self._agree(parts[-2:], whole, places):
            return None
        return whole, [places[answer] for answer in self.answers if answer in self.chosen]

    def _agree(
        self, prompts: Sequence[Rendering], whole: str, places: dict[int, tuple[int, int]]
    ) -> bool:
        """Whether the prompts that were rendered in full end at the starts of their answers."""
        return all(
            whole.startswith(prompt.text) and len(prompt.text) == places[answer][0]
            for answer, prompt in zip(self._checked, prompts, strict=True)
        )
