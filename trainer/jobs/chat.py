"""The chat job: a conversation in the terminal, or through a pipe, a message a line."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from trainer.console import shown
from trainer.data.typed_texts import check_utf8
from trainer.errors import InputError
from trainer.run import Run

if TYPE_CHECKING:
    from trainer.tokenizer import Tokenizer

log = logging.getLogger("trainer")

EXIT = "/exit"


def prepare(run: Run) -> bool:
    """Nothing: one process talks."""
    return True


def run(run: Run) -> int:
    """Answer message after message, each in view of all before it; /exit or Ctrl-D ends it."""
    _refuse_other_input(run)
    from trainer.generation.asking import opening
    from trainer.generation.decoding import Past
    from trainer.generation.text import stream
    from trainer.jobs.parts import load_generator
    from trainer.launching.saved_recipe import manner_of_asking
    from trainer.models.pretrained import max_sequence_length

    if int(os.environ.get("RANK", "0")) > 0:
        return 0
    model, tokenizer, ends = load_generator(run)
    manner = manner_of_asking(run)
    if manner.chat is False:
        found = "false, or the model was trained without a chat template"
        raise InputError(f"input.chat: {found}; accepted: input.chat=true, or job=generate")
    messages = opening(manner.system)
    past, positions = Past(), max_sequence_length(model.config)
    for turn, text in enumerate(_said()):
        messages.append({"role": "user", "content": text})
        room = positions - min(run.generation.max_new_tokens, positions // 2)
        messages, asked = _fitting(tokenizer, messages, manner.date, positions, room)
        if not asked:
            continue
        # the draws depend on the prompt's number: it tells the turns apart
        pieces = stream(model, tokenizer, [asked], run.generation, ends, turn, past)
        messages.append({"role": "assistant", "content": _shown(pieces)})
    return 0


def _refuse_other_input(run: Run) -> None:
    for name in ("text", "text_pair", "prompt", "file"):
        if getattr(run.input, name) is not None:
            raise InputError(f"input.{name}: job=chat has no such input; accepted: standard input")


def _said() -> Iterator[str]:
    """What the user says, line by line; empty lines say nothing."""
    watched = sys.stdin.isatty()
    if watched:
        with suppress(ImportError):  # where there is one, lines can be edited and repeated
            import readline  # noqa: F401
        print(f"a line is a message; {EXIT} or Ctrl-D ends")
    while True:
        try:
            line = input("> " if watched else "")
        except EOFError:
            print(end="\n" * watched)
            return
        check_utf8(line, "standard input")
        if line.strip() == EXIT:
            return
        if line.strip():
            yield line


def _fitting(
    tokenizer: "Tokenizer",
    messages: list[dict[str, str]],
    date: str | None,
    positions: int,
    room: int,
) -> tuple[list[dict[str, str]], list[int]]:
    """The conversation and its ids; the oldest turns leave it until it fits the `room`.

    Without its last message, and no ids, where that alone takes more than all positions. Either is
    told.
    """
    from trainer.generation.asking import awaiting_ids

    kept = list(messages)
    while True:
        (ids,) = awaiting_ids(tokenizer, [kept], date)
        asked = [place for place, message in enumerate(kept) if message["role"] == "user"]
        if len(ids) <= room or len(asked) == 1:
            break
        del kept[asked[0] : asked[1]]
    if len(ids) > positions:
        log.warning("chat: not answered: found %d tokens; accepted: %d", len(ids), positions)
        return messages[:-1], []
    if len(kept) < len(messages):
        log.warning("chat: the oldest messages left; the model has %d positions", positions)
    return kept, ids


def _shown(pieces: Iterator[tuple[int, str]]) -> str:
    """The answer, printed as it comes."""
    answer = ""
    for _, piece in pieces:
        print(shown(piece), end="", flush=True)
        answer += piece
    print(flush=True)
    return answer
