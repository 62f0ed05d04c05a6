"""Ends: the tokens after which a model has said what it had to say."""

import json
from pathlib import Path
from typing import Any

from trainer.errors import InputError, RowError
from trainer.generation.decoding import model_end_ids
from trainer.tokenizer import Tokenizer

ANSWER = "The answer that nobody gives."
CHAT = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": ANSWER}]


def end_ids(model: Any, tokenizer: Tokenizer, folder: Path | None = None) -> list[int]:
    """The end tokens of the model's config, the tokenizer, generation_config.json and the chats.

    `folder` holds generation_config.json, where there is one. Raises InputError if it is no JSON
    object or names an end that is no token.
    """
    own = tokenizer.eos_token_id
    told = [] if folder is None else _of_generation_config(folder / "generation_config.json")
    found = [*model_end_ids(model.config), *([] if own is None else [own]), *told]
    return sorted({*found, *_end_of_turn(tokenizer)})


def _of_generation_config(file: Path) -> list[int]:
    if not file.is_file():
        return []
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["eos_token_id"]
    except KeyError:
        return []
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{file}: not readable as a JSON object ({error})") from None
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(type(number) is int and number >= 0 for number in ids):
        raise InputError(f"{file}: eos_token_id: found {found!r:.60}; accepted: ids of tokens")
    return ids


def _end_of_turn(tokenizer: Tokenizer) -> list[int]:
    """The added token that the tokenizer's own chat template puts right after an answer, if any."""
    if tokenizer.chat_template is None:
        return []
    try:
        text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    except RowError:  # a template for other chats: whoever renders one will be told
        return []
    _, answer, tail = text.rpartition(ANSWER)
    ids = tokenizer(tail.strip(), add_special_tokens=False)["input_ids"] if answer else []
    added = set(tokenizer.get_added_vocab().values())
    return [token for token in ids[:1] if token in added]
