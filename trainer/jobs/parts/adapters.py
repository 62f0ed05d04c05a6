"""Adapters: adds those that a run's settings request to its model."""

from collections.abc import Sequence
from dataclasses import replace

from trainer.errors import InputError, nearest
from trainer.jobs.parts.model_config import model_path
from trainer.models.model import Model
from trainer.runs.run import ModelSettings
from trainer.tasks.processor import Processor
from trainer.tokenizer import Tokenizer


def adapt(model: Model, settings: ModelSettings, vocabulary: Processor | None) -> None:
    """Add the adapters that the settings request.

    `vocabulary` is the run's tokenizer if that is not the model's own, else None. Raises InputError
    for settings that do not fit the model.
    """
    lora = settings.lora
    if lora.adds_adapters:
        if settings.from_scratch or model.lora is not None:
            found = "random weights" if settings.from_scratch else "adapters already"
            accepted = "accepted: no new ones, or a trained model without adapters"
            raise InputError(f"model.lora: the model has {found}; {accepted}")
        if any(isinstance(token, str) for token in lora.trainable_tokens):
            own = vocabulary if isinstance(vocabulary, Tokenizer) else None
            tokenizer = own or Tokenizer.from_pretrained(
                model_path(settings), revision=settings.revision
            )
            lora = replace(lora, trainable_tokens=_token_ids(lora.trainable_tokens, tokenizer))
        model.add_lora(lora, model_path(settings), settings.revision)
    elif lora.merge:
        if model.lora is None:
            raise InputError("model.lora.merge: the model has no adapters; give model.lora.rank")
        model.lora = replace(model.lora, merge=True)


def _token_ids(tokens: Sequence[int | str], tokenizer: Tokenizer) -> list[int | str]:
    """The ids of tokens that are given as ids or texts. Raises InputError for an unknown token."""
    vocabulary = tokenizer.get_vocab()
    for token in tokens:
        if isinstance(token, str) and token not in vocabulary:
            raise InputError(
                f"model.lora.trainable_tokens: {token!r:.80} is not a token of the tokenizer; "
                f"accepted: ids, and tokens as its vocabulary has them{nearest(token, vocabulary)}"
            )
    return [vocabulary[token] if isinstance(token, str) else token for token in tokens]
