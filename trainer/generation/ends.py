"""Ends: the tokens after which a model has said what it had to say."""

from typing import Any

from trainer.errors import RowError
from trainer.models.generation_config import model_end_ids
from trainer.tokenizer import Tokenizer

ANSWER = "The answer that nobody gives."
CHAT = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": ANSWER}]


def end_ids(model: Any, tokenizer: Tokenizer) -> list[int]:
    """The end tokens of config.json, generation_config.json, the tokenizer and its chats."""
    own = tokenizer.eos_token_id
    found = [*model_end_ids(model), *([] if own is None else [own])]
    return sorted({*found, *_end_of_turn(tokenizer)})


def tell_ends(model: Any, tokenizer: Tokenizer) -> None:
    """Have the model's generation_config.json name them, so that others stop where we do."""
    model.generation_config["eos_token_id"] = end_ids(model, tokenizer)


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
