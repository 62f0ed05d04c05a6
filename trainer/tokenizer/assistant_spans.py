"""Assistant spans: finds the characters of a chat that a model is trained on."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from os.path import commonprefix
from typing import TYPE_CHECKING, Any, Literal

from trainer.errors import RowError
from trainer.tokenizer.chat import chosen_template, messages_of, renderings
from trainer.tokenizer.long_chat_spans import LONG, LongPlan
from trainer.tokenizer.templates import Rendering, Request, Spent

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
"""The role of a message (None: the start of a chat) -> the roles that may follow."""

WEIGHTS = ("weight", "train", "loss_mask", "loss")
"""Keys under which a message may hold a weight: 1 to train on the message, 0 to leave it out."""
AT_A_TIME = 16
"""The number of answers of a long chat that are rendered together, each with its full history."""
MAX_CHARACTERS = 1 << 26
"""The maximum total number of characters in the texts of one chat."""


@dataclass(frozen=True)
class Supervised:
    """A text, and the spans of its characters that are trained on."""

    text: str
    spans: list[tuple[int, int]]
    """(start, end) of each span, in characters; the end is exclusive."""


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
    """The texts of each conversation with their spans to train on: one text, or several.

    `train_on` selects every answer (assistant), only the last one (last), or every character (all).
    Answers among the first `prompts[i]` messages of conversation i are not trained on, nor are
    answers with a message weight of 0. `tools` and `variables` are passed to the template; each
    holds an entry per conversation.

    An answer is the text that the template adds after the generation prompt, including the end of
    the turn, since this is the text that the model has to generate at inference. If the template
    marks answers with {% generation %}, these marks define the spans instead.

    Some templates rewrite earlier messages; for example, that of Qwen3 removes the reasoning from
    the history. If the full text does not contain an answer unchanged, the answer is trained on in
    a separate text, which ends with this answer. With `max_length` (in tokens), separate texts are
    left out, with a warning, if their answer starts beyond this length.

    Raises RowError for messages that are out of order, for a conversation without an answer, and if
    a text with an answer does not start with the text before it, including the generation prompt.
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
            supervised = renderer.long(chat, own, row)
        elif train_on == "all":
            supervised = [Supervised(parts[0].text, [(0, len(parts[0].text))])]
        elif not chat.chosen:
            supervised = [Supervised(parts[0].text, [])]
        else:
            supervised = _marked(parts) or _answers(parts, row)
        if train_on != "all":
            supervised = [_without_tail(each, ends) for each in supervised]
        texts.append(supervised)
    return texts


@dataclass(frozen=True)
class _Chat:
    """A checked conversation, with the indices of its answers."""

    messages: list[dict[str, Any]]
    answers: list[int]
    """The indices of all answers up to the last one that is trained on."""
    chosen: list[int]
    """The indices of the answers that are trained on."""

    @property
    def is_long(self) -> bool:
        return bool(self.chosen) and len(self.answers) > LONG

    @property
    def requests(self) -> list[Request]:
        """The requests for the text before each chosen answer, and for the text including it.

        If no answer is chosen, there is one request for the whole chat.
        """
        if not self.chosen:
            return [(self.messages, False)]
        return [request for answer in self.chosen for request in self.around(answer)]

    def around(self, answer: int) -> list[Request]:
        return [(self.messages[:answer], True), (self.messages[: answer + 1], False)]


@dataclass(frozen=True)
class _Renderer:
    """Renders conversations, each with its own variables for the template."""

    tokenizer: "Tokenizer"
    today: str | None
    max_length: int | None
    spent: Spent = field(default_factory=Spent)

    def short(
        self, chats: Sequence[_Chat], given: Sequence[Mapping[str, Any]]
    ) -> list[list[Rendering]]:
        """The requested renderings of each short chat, and an empty list for each long chat.

        Adjacent chats with equal variables are rendered together.
        """
        found: list[list[Rendering]] = []
        for own, group in groupby(zip(chats, given, strict=True), key=itemgetter(1)):
            requests = [[] if chat.is_long else chat.requests for chat, _ in group]
            found += self._rendered(requests, own, len(found))
        return found

    def long(self, chat: _Chat, own: Mapping[str, Any], row: int) -> list[Supervised]:
        """The texts and spans of a chat with many answers, in time linear in its length."""
        plan = LongPlan(chat.messages, chat.answers, frozenset(chat.chosen))
        try:
            (parts,) = self._rendered([plan.requests], own, row)
        except RowError:  # perhaps the template accepts the whole chat, but not parts of it
            return self._answer_by_answer(chat, own, row)
        marks = parts[0].generated
        if len(marks) == len(chat.answers):
            spans = [marks[chat.answers.index(answer)] for answer in chat.chosen]
            return [Supervised(parts[0].text, spans)]
        if marks or (found := plan.answers_of(parts)) is None:
            return self._answer_by_answer(chat, own, row)
        return [Supervised(*found)]

    def _answer_by_answer(self, chat: _Chat, own: Mapping[str, Any], row: int) -> list[Supervised]:
        """The texts and spans of a long chat, by rendering the whole history of every answer.

        If the template rewrites earlier answers, answers beyond `max_length` are left out. Raises
        RowError if the texts would need too much memory.
        """
        parts: list[Rendering] = []
        marked = False
        for start in range(0, len(chat.chosen), AT_A_TIME):
            answers = chat.chosen[start : start + AT_A_TIME]
            requests = [request for answer in answers for request in chat.around(answer)]
            (found,) = self._rendered([requests], own, row)
            parts += found
            marked = marked or bool(parts[-1].generated)
            rewritten = not marked and not parts[-1].text.startswith(parts[1].text)
            if rewritten and self._is_beyond(found[-2].text):
                break
            if sum(len(part.text) for part in parts) > MAX_CHARACTERS:
                raise RowError(
                    row,
                    "messages: the chat template rewrites earlier answers, so that each needs a "
                    f"text of its own, and {len(parts) // 2} of {len(chat.chosen)} have more than "
                    f"{MAX_CHARACTERS:,} characters; accepted: fewer messages, or train_on=last",
                )
        supervised = _marked(parts) or _answers(parts, row)
        if len(supervised) > 1:
            log.warning(
                "chat_template: rewrites earlier answers, so %d of %d are trained on in %d texts "
                "(row %d of a batch)%s",
                len(parts) // 2,
                len(chat.chosen),
                len(supervised),
                row,
                "; the others begin beyond recipe.max_length" * (len(parts) < 2 * len(chat.chosen)),
            )
        return supervised

    def _is_beyond(self, prompt: str) -> bool:
        """Whether a prompt has at least `max_length` tokens, so that its answer is cut off."""
        if self.max_length is None:
            return False
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return len(ids) >= self.max_length

    def _rendered(
        self, requests: Sequence[Sequence[Request]], own: Mapping[str, Any], first: int
    ) -> list[list[Rendering]]:
        """The renderings of each conversation; `first` is the row of the first one, for errors."""
        try:
            return renderings(
                self.tokenizer,
                requests,
                template=chosen_template(self.tokenizer, tools=own["tools"]),
                variables=own,
                today=self.today,
                spent=self.spent,
            )
        except RowError as error:
            raise RowError(first + error.row, str(error)) from None


def _chat(messages: list[dict[str, Any]], row: int, prompt: int, train_on: TrainOn) -> _Chat:
    """Check a conversation, and select the answers to train on. Raises RowError."""
    weights = [_weight(message, number, row) for number, message in enumerate(messages)]
    plain = [{k: v for k, v in message.items() if k not in WEIGHTS} for message in messages]
    _check_order(plain, row, prompt)
    answers = [n for n, message in enumerate(plain) if message["role"] == "assistant"]
    if train_on == "all":
        if False in weights:
            found = f"messages[{weights.index(False)}]: a weight of 0 with recipe.train_on=all"
            raise RowError(row, f"{found}; accepted: recipe.train_on=assistant")
        return _Chat(plain, [], [])
    candidates = answers[-1:] if train_on == "last" else answers
    chosen = [n for n in candidates if n >= prompt and weights[n] is not False]
    return _Chat(plain, [n for n in answers if chosen and n <= chosen[-1]], chosen)


def _weight(message: Mapping[str, Any], number: int, row: int) -> bool | None:
    """Whether the weight of a message selects it for training; None without a weight."""
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
            raise RowError(row, f"messages[{number}]: '{role}' has no content; {accepted}")
        before = role
    if not any(message["role"] == "assistant" for message in messages[prompt:]):
        after = " after the prompt" if prompt else ""
        raise RowError(row, f"messages: no answer (role assistant){after}; accepted: one or more")


def _marked(parts: list[Rendering]) -> list[Supervised]:
    """The full text with the spans that the template marks; an empty list if it marks none."""
    whole = parts[-1]
    if not whole.generated:
        return []
    # the marks of an answer are in the text that includes it, but not in its prompt
    counts = [len(part.generated) for part in parts]
    chosen = [n for k in range(0, len(parts), 2) for n in range(counts[k], counts[k + 1])]
    return [Supervised(whole.text, [whole.generated[n] for n in chosen])]


def _answers(parts: list[Rendering], row: int) -> list[Supervised]:
    """The fewest texts that together contain every answer unchanged, with their spans."""
    pairs = [(parts[n].text, parts[n + 1].text) for n in range(0, len(parts), 2)]
    for prompt, answered in pairs:
        if not answered.startswith(prompt):
            end = len(commonprefix([prompt, answered]))
            found = f"its prompt has {prompt[end : end + 30]!r} where its answers have "
            raise RowError(
                row,
                f"chat_template: {found}{answered[end : end + 30]!r}; accepted: one whose answers "
                "go on from the prompt, or with {% generation %} around them",
            )
    texts = []
    while pairs:
        whole = pairs[-1][1]
        contained = [(p, answered) for p, answered in pairs if whole.startswith(answered)]
        texts.append(Supervised(whole, [(len(p), len(answered)) for p, answered in contained]))
        pairs = [pair for pair in pairs if not whole.startswith(pair[1])]
    return texts[::-1]


def _without_tail(found: Supervised, ends: Sequence[str]) -> Supervised:
    """The text with its spans cut: they leave out white space after the token that ends a turn.

    Generation stops at this token, so the model need not learn the text after it.
    """
    spans = []
    for start, stop in found.spans:
        kept = found.text[start:stop].rstrip()
        spans.append((start, start + len(kept) if kept.endswith(tuple(ends)) else stop))
    return Supervised(found.text, spans)
