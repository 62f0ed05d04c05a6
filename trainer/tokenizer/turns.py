"""Turns: which characters of a chat are the assistant's, by position, never by what they are."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from os.path import commonprefix
from typing import TYPE_CHECKING, Any, Literal

from trainer.errors import RowError
from trainer.tokenizer.chat import chosen_template, messages_of, renderings
from trainer.tokenizer.long_chats import LONG, LongPlan
from trainer.tokenizer.templates import Rendering, Request

if TYPE_CHECKING:
    from trainer.tokenizer import Tokenizer

log = logging.getLogger("trainer")

TrainOn = Literal["assistant", "last", "all"]
ROLES = ("system", "developer", "user", "assistant", "tool")
FOLLOWERS = {
    None: ("system", "developer", "user"),
    "system": ("user",),
    "developer": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
"""Who may speak after whom."""

WEIGHTS = ("weight", "train", "loss_mask", "loss")
"""Names of a message's weight, 0 or 1: whether it is trained on."""
AT_A_TIME = 16
"""Answers of a long chat that are rendered in full together, where there is no other way."""
MOST_CHARACTERS = 1 << 26
"""Of all texts of one chat."""


@dataclass(frozen=True)
class Supervised:
    """A text, and the spans of its characters that are trained on."""

    text: str
    spans: list[tuple[int, int]]


def supervised_texts(
    tokenizer: "Tokenizer",
    conversations: Sequence[Any],
    train_on: TrainOn,
    today: str | None = None,
    tools: Sequence[Any] | None = None,
    prompts: Sequence[int] | None = None,
    variables: Sequence[Mapping[str, Any]] | None = None,
    max_length: int | None = None,
) -> list[list[Supervised]]:
    """What to train on of each conversation: one text, or several.

    `tools` and `variables` (of the template) are those of each conversation; `prompts` tells how
    many messages each begins with of which no answer is trained on; an answer whose message has a
    weight of 0 is not trained on either.

    An answer is what stands between the text of the messages before it, with the generation
    prompt, and the text with it: what the model writes when it is asked, its end of turn included.
    A template that marks answers by {% generation %} is taken at its word. Where later messages
    rewrite earlier ones (Qwen3 takes the thoughts out of the history), an answer that the whole
    text does not hold as it was given is trained on in a text of its own, which ends with it; with
    `max_length` (tokens) only those that begin before it, which is logged.
    `train_on` is assistant (every answer), last (the last one), all (every character). Raises
    RowError for messages out of order, without an answer, and where a template's generation prompt
    is not how its answers begin.
    """
    count = len(conversations)
    chats = [
        _chat(messages_of(found, row), row, prompt, train_on)
        for row, (found, prompt) in enumerate(
            zip(conversations, prompts or [0] * count, strict=True)
        )
    ]
    given = [
        {"tools": own, "documents": None, **more}
        for own, more in zip(tools or [None] * count, variables or [{}] * count, strict=True)
    ]
    renderer = _Renderer(tokenizer, today, max_length)
    found = renderer.short(chats, given)
    ends = [token for token in tokenizer.get_added_vocab() if token.strip()]
    texts = []
    for row, (chat, own, parts) in enumerate(zip(chats, given, found, strict=True)):
        if chat.is_long:
            learnt = renderer.long(chat, own, row)
        elif train_on == "all":
            learnt = [Supervised(parts[0].text, [(0, len(parts[0].text))])]
        elif not chat.chosen:
            learnt = [Supervised(parts[0].text, [])]
        else:
            learnt = _marked(parts) or _answers(parts, row)
        texts.append(learnt if train_on == "all" else [_without_tail(t, ends) for t in learnt])
    return texts


@dataclass(frozen=True)
class _Chat:
    """A conversation whose messages are in order, and the places of its answers."""

    messages: list[dict[str, Any]]
    answers: list[int]
    """All of them up to the last that is trained on."""
    chosen: list[int]

    @property
    def is_long(self) -> bool:
        return bool(self.chosen) and len(self.answers) > LONG

    @property
    def requests(self) -> list[Request]:
        """The whole text, or those before and after each answer that is trained on, in order."""
        if not self.chosen:
            return [(self.messages, False)]
        return [request for answer in self.chosen for request in self.around(answer)]

    def around(self, answer: int) -> list[Request]:
        return [(self.messages[:answer], True), (self.messages[: answer + 1], False)]


@dataclass(frozen=True)
class _Renderer:
    """Conversations to renderings, each with the variables of its own."""

    tokenizer: "Tokenizer"
    today: str | None
    max_length: int | None

    def short(
        self, chats: Sequence[_Chat], given: Sequence[Mapping[str, Any]]
    ) -> list[list[Rendering]]:
        """All that is asked for of each chat, nothing of long ones; equal neighbours together."""
        found: list[list[Rendering]] = []
        for own, group in groupby(zip(chats, given, strict=True), key=itemgetter(1)):
            asked = [[] if chat.is_long else chat.requests for chat, _ in group]
            found += self._rendered(asked, own, len(found))
        return found

    def long(self, chat: _Chat, own: Mapping[str, Any], row: int) -> list[Supervised]:
        """What to train on of a chat of many answers, in time that grows with its length."""
        plan = LongPlan(chat.messages, chat.answers, frozenset(chat.chosen))
        try:
            (parts,) = self._rendered([plan.requests], own, row)
        except (
            RowError
        ):  # the template refuses parts of chats: the error is in what follows, or none
            return self._one_by_one(chat, own, row)
        marks = parts[0].generated
        if len(marks) == len(chat.answers):
            spans = [marks[chat.answers.index(answer)] for answer in chat.chosen]
            return [Supervised(parts[0].text, spans)]
        if marks or (found := plan.answers_of(parts)) is None:
            return self._one_by_one(chat, own, row)
        return [Supervised(*found)]

    def _one_by_one(self, chat: _Chat, own: Mapping[str, Any], row: int) -> list[Supervised]:
        """As of a short chat, some answers at a time, as far as their prompts can be learnt from.

        Raises RowError for a chat without limit whose texts would take too much memory.
        """
        parts: list[Rendering] = []
        marked = False
        for start in range(0, len(chat.chosen), AT_A_TIME):
            asked = chat.chosen[start : start + AT_A_TIME]
            requests = [request for answer in asked for request in chat.around(answer)]
            (found,) = self._rendered([requests], own, row)
            parts += found
            marked = marked or bool(parts[-1].generated)
            rewritten = not marked and not parts[-1].text.startswith(parts[1].text)
            if rewritten and self._is_beyond(found[-2].text):
                break
            if sum(len(part.text) for part in parts) > MOST_CHARACTERS:
                raise RowError(
                    row,
                    "messages: the chat template rewrites earlier answers, so that each needs a "
                    f"text of its own, and {len(parts) // 2} of {len(chat.chosen)} have more than "
                    f"{MOST_CHARACTERS:,} characters; accepted: fewer messages, or train_on=last",
                )
        learnt = _marked(parts) or _answers(parts, row)
        if len(learnt) > 1:
            log.warning(
                "chat_template: rewrites earlier answers, so %d of %d are trained on in %d texts "
                "(row %d of a batch)%s",
                len(parts) // 2,
                len(chat.chosen),
                len(learnt),
                row,
                "; the others begin beyond recipe.max_length" * (len(parts) < 2 * len(chat.chosen)),
            )
        return learnt

    def _is_beyond(self, prompt: str) -> bool:
        """Whether all that follows a prompt is cut off."""
        if self.max_length is None:
            return False
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return len(ids) >= self.max_length

    def _rendered(
        self, asked: Sequence[Sequence[Request]], own: Mapping[str, Any], first: int
    ) -> list[list[Rendering]]:
        """`first` is the row of the first conversation."""
        try:
            return renderings(
                self.tokenizer,
                asked,
                template=chosen_template(self.tokenizer, tools=own["tools"]),
                variables=own,
                today=self.today,
            )
        except RowError as error:
            raise RowError(first + error.row, str(error)) from None


def _chat(messages: list[dict[str, Any]], row: int, prompt: int, train_on: TrainOn) -> _Chat:
    """A conversation in order, its weights read. Raises RowError."""
    weights = [_weight(message, number, row) for number, message in enumerate(messages)]
    plain = [{k: v for k, v in message.items() if k not in WEIGHTS} for message in messages]
    _check_order(plain, row, prompt)
    places = [n for n, message in enumerate(plain) if message["role"] == "assistant"]
    if train_on == "all":
        if False in weights:
            found = f"messages[{weights.index(False)}]: a weight of 0 with recipe.train_on=all"
            raise RowError(row, f"{found}; accepted: recipe.train_on=assistant")
        return _Chat(plain, [], [])
    wanted = places[-1:] if train_on == "last" else places
    chosen = [n for n in wanted if n >= prompt and weights[n] is not False]
    return _Chat(plain, [n for n in places if chosen and n <= chosen[-1]], chosen)


def _weight(message: Mapping[str, Any], number: int, row: int) -> bool | None:
    """Whether a message says that it is trained on; None where it says nothing."""
    found = {name: message[name] for name in WEIGHTS if message.get(name) is not None}
    for name, value in found.items():
        if value not in (0, 1, False, True):
            raise RowError(row, f"messages[{number}]: {name}: found {value!r:.40}; accepted: 0, 1")
    if len(set(map(bool, found.values()))) > 1:
        raise RowError(row, f"messages[{number}]: found {' and '.join(found)} that contradict")
    chosen = next(map(bool, found.values()), None)
    if chosen and message["role"] != "assistant":
        found_here = f"messages[{number}]: {next(iter(found))}: 1 for the role {message['role']}"
        raise RowError(row, f"{found_here}; accepted: of answers (assistant), or train_on=all")
    return chosen


def _check_order(messages: list[dict[str, Any]], row: int, prompt: int) -> None:
    before: str | None = None
    for number, message in enumerate(messages):
        role = message["role"]
        if role not in ROLES:
            accepted = ", ".join(ROLES)
            raise RowError(row, f"messages[{number}]: role '{role}'; accepted: {accepted}")
        if role not in FOLLOWERS[before]:
            place = f"after '{before}'" if before else "first"
            accepted = ", ".join(FOLLOWERS[before])
            found = f"messages[{number}]: '{role}' {place}, out of order"
            raise RowError(row, f"{found}; accepted: {accepted}")
        if message.get("content") is None and not message.get("tool_calls"):
            accepted = "accepted: content, a text"
            raise RowError(row, f"messages[{number}]: '{role}' says nothing; {accepted}")
        before = role
    if not any(message["role"] == "assistant" for message in messages[prompt:]):
        after = " after the prompt" if prompt else ""
        raise RowError(row, f"messages: no answer (role assistant){after}; accepted: one or more")


def _marked(parts: list[Rendering]) -> list[Supervised]:
    """The whole text with the template's own marks; none where it has no such marks."""
    whole = parts[-1]
    if not whole.generated:
        return []
    # an answer's marks are those that its text has, and its prompt's text has not
    counts = [len(part.generated) for part in parts]
    chosen = [n for k in range(0, len(parts), 2) for n in range(counts[k], counts[k + 1])]
    return [Supervised(whole.text, [whole.generated[n] for n in chosen])]


def _answers(parts: list[Rendering], row: int) -> list[Supervised]:
    """As few texts as hold every answer just as it was given."""
    turns = [(parts[n].text, parts[n + 1].text) for n in range(0, len(parts), 2)]
    for prompt, answered in turns:
        if not answered.startswith(prompt):
            end = len(commonprefix([prompt, answered]))
            found = f"its prompt has {prompt[end : end + 30]!r} where its answers have "
            raise RowError(
                row,
                f"chat_template: {found}{answered[end : end + 30]!r}; accepted: one whose answers "
                "go on from the prompt, or with {% generation %} around them",
            )
    texts = []
    while turns:
        whole = turns[-1][1]
        held = [(p, answered) for p, answered in turns if whole.startswith(answered)]
        texts.append(Supervised(whole, [(len(p), len(answered)) for p, answered in held]))
        turns = [turn for turn in turns if not whole.startswith(turn[1])]
    return texts[::-1]


def _without_tail(found: Supervised, ends: Sequence[str]) -> Supervised:
    """The spans without white space after an end of turn: generation is over by then."""
    spans = []
    for start, stop in found.spans:
        kept = found.text[start:stop].rstrip()
        spans.append((start, start + len(kept) if kept.endswith(tuple(ends)) else stop))
    return Supervised(found.text, spans)
