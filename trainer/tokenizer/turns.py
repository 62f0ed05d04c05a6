"""Turns: which characters of a chat are the assistant's, by position, never by what they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from os.path import commonprefix
from typing import TYPE_CHECKING, Any, Literal

from trainer.errors import RowError
from trainer.tokenizer.chat import chosen_template, messages_of, renderings
from trainer.tokenizer.templates import Rendering, Request

if TYPE_CHECKING:
    from trainer.tokenizer import Tokenizer

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
) -> list[list[Supervised]]:
    """What to train on of each conversation: one text, or several.

    `tools` are those of each conversation; `prompts` tells how many messages each begins with of
    which no answer is trained on.

    An answer is what stands between the text of the messages before it, with the generation
    prompt, and the text with it: what the model writes when it is asked, its end of turn included.
    A template that marks answers by {% generation %} is taken at its word. Where later messages
    rewrite earlier ones (Qwen3 takes the thoughts out of the history), an answer that the whole
    text does not hold as it was given is trained on in a text of its own, which ends with it.
    `train_on` is assistant (every answer), last (the last one), all (every character). Raises
    RowError for messages out of order, without an answer, and where a template's generation prompt
    is not how its answers begin.
    """
    prompts = prompts or [0] * len(conversations)
    plans = [
        _plan(_in_order(messages_of(found, row), row, prompt), train_on, prompt)
        for row, (found, prompt) in enumerate(zip(conversations, prompts, strict=True))
    ]
    found = _rendered(tokenizer, plans, tools or [None] * len(plans), today)
    if train_on == "all":
        return [[Supervised(whole.text, [(0, len(whole.text))])] for (whole,) in found]
    ends = [token for token in tokenizer.get_added_vocab() if token.strip()]
    return [
        [_without_tail(text, ends) for text in _marked(parts, row) or _answers(parts, row)]
        for row, parts in enumerate(found)
    ]


def _rendered(
    tokenizer: "Tokenizer",
    plans: Sequence[Sequence[Request]],
    tools: Sequence[Any],
    today: str | None,
) -> list[list[Rendering]]:
    """All plans' renderings; neighbours with the same tools go together."""
    found: list[list[Rendering]] = []
    for own, group in groupby(zip(plans, tools, strict=True), key=itemgetter(1)):
        try:
            found += renderings(
                tokenizer,
                [plan for plan, _ in group],
                template=chosen_template(tokenizer, tools=own),
                variables={"tools": own, "documents": None},
                today=today,
            )
        except RowError as error:
            raise RowError(len(found) + error.row, str(error)) from None
    return found


def _in_order(messages: list[dict[str, Any]], row: int, prompt: int) -> list[dict[str, Any]]:
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
    return messages


def _plan(messages: list[dict[str, Any]], train_on: TrainOn, prompt: int) -> list[Request]:
    """The renderings to ask for: before and after each answer that is trained on, in order."""
    if train_on == "all":
        return [(messages, False)]
    places = [n for n in range(prompt, len(messages)) if messages[n]["role"] == "assistant"]
    chosen = places[-1:] if train_on == "last" else places
    return [part for n in chosen for part in ((messages[:n], True), (messages[: n + 1], False))]


def _marked(parts: list[Rendering], row: int) -> list[Supervised]:
    """The whole text with the template's own marks; none where it has no such marks."""
    before, whole = parts[0], parts[-1]
    if not whole.generated:
        return []
    # what the text before the first answer that is asked for has marked is not asked for
    return [Supervised(whole.text, whole.generated[len(before.generated) :])]


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
