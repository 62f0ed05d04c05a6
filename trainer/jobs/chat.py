"""The chat job: a conversation in the terminal or through a pipe, one message per line."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from trainer.data.command_line_texts import check_utf8
from trainer.errors import InputError
from trainer.runs.run import Run
from trainer.terminal.activity import done
from trainer.terminal.console import shown

if TYPE_CHECKING:
    from trainer.tokenizer import Tokenizer

log = logging.getLogger("trainer")

EXIT = "/exit"


def prepare(run: Run) -> bool:
    """Do nothing; the job runs in one process."""
    return True


def run(run: Run) -> int:
    """Answer messages, with the conversation so far as context, until /exit or Ctrl-D."""
    _refuse_other_input(run)
    from trainer.config.saved_recipe import prompt_style
    from trainer.generation.decoding import Past
    from trainer.generation.prompts import initial_messages
    from trainer.generation.text import stream
    from trainer.jobs.parts.model import load_generator

    if int(os.environ.get("RANK", "0")) > 0:
        return 0
    model, tokenizer, ends = load_generator(run)
    style = prompt_style(run)
    if style.chat is False:
        found = "false, or the model was trained without a chat template"
        raise InputError(f"input.chat: {found}; accepted: input.chat=true, or job=generate")
    done()
    messages = initial_messages(style.system)
    past, positions = Past(), model.longest_sequence
    for turn, text in enumerate(_user_messages()):
        messages.append({"role": "user", "content": text})
        room = positions - min(run.generation.max_new_tokens, positions // 2)
        messages, prompt_ids = _fitting(tokenizer, messages, style.date, positions, room)
        if not prompt_ids:
            continue
        # random numbers depend on the prompt's number, so each turn passes a different one
        pieces = stream(model, tokenizer, [prompt_ids], run.generation, ends, turn, past)
        messages.append({"role": "assistant", "content": _print_pieces(pieces)})
    return 0


def _refuse_other_input(run: Run) -> None:
    if (count := run.generation.num_return_sequences) > 1:
        found = f"found {count} with job=chat"
        raise InputError(f"generation.num_return_sequences: {found}; accepted: 1, or job=generate")
    for name in ("text", "text_pair", "prompt", "file"):
        if getattr(run.input, name) is not None:
            raise InputError(f"input.{name}: job=chat has no such input; accepted: standard input")


def _user_messages() -> Iterator[str]:
    """Yield the user's messages from standard input, one per line; empty lines are skipped."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        with suppress(ImportError):  # readline, if available, adds line editing and a history
            import readline  # noqa: F401
        print(f"each line is a message; {EXIT} or Ctrl-D quits")
    while True:
        try:
            line = input("> " if is_terminal else "")
        except EOFError:
            print(end="\n" * is_terminal)
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
    """The conversation and its token ids, without the oldest turns if it exceeds `room` tokens.

    If the last message alone has more tokens than the model has positions, the message is dropped
    and the ids are empty. Both cases log a warning.
    """
    from trainer.generation.prompts import encode_conversations

    kept = list(messages)
    while True:
        (ids,) = encode_conversations(tokenizer, [kept], date)
        turn_starts = [i for i, message in enumerate(kept) if message["role"] == "user"]
        if len(ids) <= room or len(turn_starts) == 1:
            break
        del kept[turn_starts[0] : turn_starts[1]]
    if len(ids) > positions:
        log.warning("chat: not answered: found %d tokens; accepted: %d", len(ids), positions)
        return messages[:-1], []
    if len(kept) < len(messages):
        log.warning("chat: the oldest messages were dropped; the model has %d positions", positions)
    return kept, ids


def _print_pieces(pieces: Iterator[tuple[int, str]]) -> str:
    """Print the pieces of an answer as they are generated; returns the whole answer."""
    answer = ""
    for _, piece in pieces:
        print(shown(piece), end="", flush=True)
        answer += piece
    print(flush=True)
    return answer
