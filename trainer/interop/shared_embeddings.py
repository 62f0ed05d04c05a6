"""Refuses to train embeddings whose parameter other modules of a transformers model share."""

from torch import nn

from trainer.errors import InputError
from trainer.interop.foreign_names import ForeignNames
from trainer.models.adapters.adapter_files import DELTA, AdapterWeights, SavedAdapter
from trainer.models.adapters.lora_settings import LoRASettings

ROWS = "model.lora.trainable_tokens"
WHOLE = "model.lora.modules_to_save"
ACCEPTED = "accepted: adapters on linear layers"


def check_settings(model: ForeignNames, settings: LoRASettings) -> None:
    """Refuse to train the embeddings, or rows of them, if other modules share their parameter.

    In an encoder-decoder, the encoder and the decoder have embedding modules with the same
    parameter. An adapter on one module would not change the other, and PEFT would load the files
    for one of them only.
    """
    if not (others := _others(model)):
        return
    if settings.trainable_tokens:
        found = f"found {len(settings.trainable_tokens)} tokens"
        raise InputError(f"{ROWS}: {found}, and {_shared(model, others)}; accepted: []")
    for module in settings.modules_to_save:
        if any(f".{module}." in f".{name}." for name in _holders(model)):
            found = f"found '{module}', and {_shared(model, others)}"
            raise InputError(f"{WHOLE}: {found}; accepted: modules without embeddings")


def check_adapter(model: ForeignNames, adapter: SavedAdapter) -> None:
    """Refuse an adapter's files with trained embeddings (or rows) that other modules share."""
    with AdapterWeights(adapter.folder) as found:
        rows = any(name.endswith(DELTA) for name in found.names)
    kind, others = type(model.body.embed), _others(model)
    if rows and kind is not nn.Embedding and not others:
        problem = f"found trained tokens, but the embeddings are a {kind.__name__}"
        raise InputError(f"{adapter.folder}: {problem}; {ACCEPTED}")
    names = {model.short_name(f"{name}.weight") for name in _holders(model)}
    if others and (rows or names & adapter.whole(model)):
        problem = f"found trained embeddings, and {_shared(model, others)}"
        raise InputError(f"{adapter.folder}: {problem}; {ACCEPTED}")


def _holders(model: ForeignNames) -> list[str]:
    """The names of all modules whose weight is that of the input embeddings."""
    weight, ending = getattr(model.body.embed, "weight", None), ".weight"
    named = model.named_parameters(remove_duplicate=False)
    return [name.removesuffix(ending) for name, each in named if each is weight]


def _others(model: ForeignNames) -> list[str]:
    """The names from `_holders`, without the input embeddings and the output layer."""
    head = model.inner.get_output_embeddings() if model.vocabulary else None
    usual = (model.body.embed, head)
    modules = dict(model.named_modules(remove_duplicate=False))
    return [name for name in _holders(model) if all(modules[name] is not m for m in usual)]


def _shared(model: ForeignNames, others: list[str]) -> str:
    return f"{model.hub_name(others[0])} of {model.architecture} shares the embeddings"
