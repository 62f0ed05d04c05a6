"""Splits a chat template into the fixed texts around messages, for other template languages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.errors import InputError, RowError
from trainer.tokenizer import Tokenizer

SYSTEM, USER, ANSWER, LAST = "Systemtext7", "Usertext7", "Answertext7", "Usertext8"
"""Contents of test messages; no template contains or changes these texts."""

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class ChatPieces:
    """The fixed texts that a template puts around alternating user and assistant messages."""

    before_system: str
    after_system: str
    """The text between the system message and the first user message."""
    start: str
    """The text before the first user message if there is no system message."""
    after_user: str
    """The text after each user message, even if no answer follows."""
    before_answer: str
    """The text between `after_user` and an answer."""
    after_answer: str
    """The text between an answer and the next user message."""

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt for a conversation: its text up to the start of the next answer."""
        first = messages[0]
        text = self.start
        if first["role"] == "system":
            text = self.before_system + first["content"] + self.after_system
            messages = messages[1:]
        for message in messages:
            if message["role"] == "user":
                text += message["content"] + self.after_user
            else:
                text += self.before_answer + message["content"] + self.after_answer
        return text


def chat_pieces(tokenizer: Tokenizer) -> ChatPieces | None:
    """The pieces of the tokenizer's template, or None if pieces cannot reproduce its output.

    They cannot if, for example, the template inserts the date or treats longer conversations
    differently.
    """
    if not isinstance(tokenizer.chat_template, str) or "strftime_now" in tokenizer.chat_template:
        return None
    try:
        pieces = _pieces(tokenizer)
        wrong = any(pieces.render(each) != _rendered(tokenizer, each) for each in _conversations())
    except (RowError, InputError, ValueError):  # the template refuses or changes the test messages
        return None
    return None if wrong else pieces


def _pieces(tokenizer: Tokenizer) -> ChatPieces:
    whole = _rendered(tokenizer, _conversation(SYSTEM, USER, ANSWER, LAST))
    before, whole = whole.split(SYSTEM)
    after_system, whole = whole.split(USER)
    answered, whole = whole.split(ANSWER)
    after_answer, after_user = whole.split(LAST)
    start, _ = _rendered(tokenizer, _conversation(None, USER)).split(USER)
    before_answer = answered.removeprefix(after_user)
    return ChatPieces(before, after_system, start, after_user, before_answer, after_answer)


def _conversations() -> list[Messages]:
    return [
        _conversation(None, "Hello"),
        _conversation("Be brief.", "Hello"),
        _conversation(None, "Hello", "Hi!", "Who are you?", "A model.", "Thanks, and bye"),
        _conversation("Be brief.", "One\n\ntwo", "Hi!", "Who?", "A model.", "Bye"),
    ]


def _conversation(system: str | None, *turns: str) -> Messages:
    found = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return found + [{"role": roles[n % 2], "content": text} for n, text in enumerate(turns)]


def _rendered(tokenizer: Tokenizer, messages: Messages) -> str:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert isinstance(text, str)
    return text
