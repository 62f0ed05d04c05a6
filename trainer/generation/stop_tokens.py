"""Stop tokens: the tokens that end a generated text."""

from trainer.errors import RowError
from trainer.generation.generative_model import GenerativeModel
from trainer.models.formats.generation_config import model_end_ids
from trainer.tokenizer import Tokenizer

ANSWER = "This text marks the end of an answer."
CHAT = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": ANSWER}]


def stop_token_ids(model: GenerativeModel, tokenizer: Tokenizer) -> list[int]:
    """The ids of all stop tokens: of the model's configs, the tokenizer and its chat template."""
    own = tokenizer.eos_token_id
    found = [*model_end_ids(model), *([] if own is None else [own])]
    return sorted({*found, *_end_of_turn(tokenizer)})


def set_eos_token_ids(model: GenerativeModel, tokenizer: Tokenizer) -> None:
    """Set the stop tokens in the model's generation config, so that other tools use them, too."""
    model.generation_config["eos_token_id"] = stop_token_ids(model, tokenizer)


def _end_of_turn(tokenizer: Tokenizer) -> list[int]:
    """The id of the added token that the chat template writes right after an answer, if any."""
    if tokenizer.chat_template is None:
        return []
    try:
        text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    except RowError:  # the template does not accept these messages
        return []
    _, answer, tail = text.rpartition(ANSWER)
    ids = tokenizer(tail.strip(), add_special_tokens=False)["input_ids"] if answer else []
    added = set(tokenizer.get_added_vocab().values())
    return [token for token in ids[:1] if token in added]
