"""TextPipeline: applies a model to one input, a list, a generator or a data set."""

import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.errors import InputError, nearest
from trainer.foreign.counts import checked_count

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainer.tasks.recipe import Recipe
    from trainer.tokenizer import Tokenizer

log = logging.getLogger("trainer")

DEFAULT_BATCH_SIZE = 16
"""The number of inputs per call to the model; it does not affect the answers."""


class TextPipeline:
    """A model and its tokenizer; subclasses define `answers`."""

    task: ClassVar[str] = ""
    """The hub's name of the task."""
    head: ClassVar[str] = ""
    """The head that the model must have: a key of `trainer.models.auto.TASKS`, or empty for any."""
    framework = "pt"

    def __init__(
        self,
        model: Any,
        tokenizer: "Tokenizer",
        recipe: "Recipe | None" = None,
        *,
        batch_size: int | None = None,
        precision: str = "fp32",
        **options: object,
    ) -> None:
        """`options` are the defaults for the options of calls.

        `precision` has the same values as in TrainSettings. Raises InputError for unknown options.
        """
        self.precision = precision
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.recipe = recipe
        self.batch_size = DEFAULT_BATCH_SIZE if batch_size is None else _checked_size(batch_size)
        self.options = options
        self._check(options)

    @property
    def device(self) -> "torch.device":
        found: torch.device = next(self.model.parameters()).device
        return found

    @property
    def dtype(self) -> "torch.dtype":
        found: torch.dtype = next(self.model.parameters()).dtype
        return found

    def __call__(
        self,
        inputs: object,
        *,
        batch_size: int | None = None,
        num_workers: int | None = None,
        **options: object,
    ) -> Any:
        """Answer one input, a list of inputs, or the items of a generator or a data set.

        The answers are a list for a list, and an iterator for a generator or a data set.
        `num_workers` is accepted, but has no effect. Raises InputError for an unknown option.
        """
        self._check(options)
        options = {**self.options, **options}
        size = self.batch_size if batch_size is None else _checked_size(batch_size)
        if self.is_one(inputs, options):
            return self.answers([inputs], **options)[0]
        if isinstance(inputs, (list, tuple)):
            return list(self._in_batches(inputs, size, options))
        rows = isinstance(inputs, Iterable) or hasattr(inputs, "__getitem__")
        if not rows or isinstance(inputs, (bytes, Mapping)):
            found = f"found {type(inputs).__name__}"
            raise InputError(f"pipeline: {found}; accepted: a text, a list, or rows of them")
        return self._in_batches(_rows(inputs), size, options)

    transform = predict = __call__

    def answers(self, inputs: Sequence[Any]) -> list[Any]:
        """The answers to a batch of inputs. Subclasses add options as keyword arguments."""
        raise AssertionError(f"{type(self).__name__} cannot be called")

    def is_one(self, inputs: object, options: Mapping[str, Any]) -> bool:
        """Whether `inputs` is a single input."""
        return isinstance(inputs, (str, Mapping))

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the model and the tokenizer into a folder."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)

    def forward(self, encodings: Sequence[Mapping[str, Any]]) -> Any:
        """The model's outputs for a batch of encodings, which are padded to the longest."""
        import torch

        from trainer.devices.precision import autocast

        with torch.no_grad(), autocast(self.precision, self.device):
            return self.model(**padded(encodings, self.tokenizer.pad_token_id, self.device))

    def encoded(self, text: Any, pair: Any = None, **options: Any) -> Mapping[str, Any]:
        """The encoding of a text or a pair of texts.

        Unless `options` set `truncation`, a text that has more tokens than the model has positions
        is cut, and a warning is logged. Truncation without `max_length` cuts at the positions, too,
        since the files of some tokenizers set no limit. Raises InputError for inputs that are not
        texts.
        """
        if not isinstance(text, str) or not isinstance(pair, str | None):
            found_input = pair if isinstance(text, str) else text
            raise InputError(f"pipeline: found {found_input!r:.60}; accepted: a text")
        for name in ("return_tensors", "return_overflowing_tokens"):
            if options.get(name):
                raise InputError(f"pipeline: found {name}={options[name]!r:.40}; accepted: without")
        room = self._room
        truncates = options.get("truncation") not in (None, False, "do_not_truncate")
        if truncates and options.get("max_length") is None:
            options["max_length"] = min(room, self.tokenizer.model_max_length)
        found: Mapping[str, Any] = self.tokenizer(text, pair, **options)
        if len(found["input_ids"]) > room and "truncation" not in options:
            log.warning(
                "pipeline: a text of %d tokens is cut to %d, the number of the model's positions",
                len(found["input_ids"]),
                room,
            )
            found = self.tokenizer(text, pair, **options, truncation=True, max_length=room)
        return found

    @property
    def _room(self) -> int:
        from trainer.models.config import ModelConfig
        from trainer.models.input_checks import max_sequence_length

        config = self.model.config
        if isinstance(config, ModelConfig):
            return max_sequence_length(config)
        return int(getattr(config, "max_position_embeddings", 1 << 24))

    def _in_batches(
        self, inputs: Iterable[Any], size: int, options: Mapping[str, Any]
    ) -> Iterator[Any]:
        rest = iter(inputs)
        while batch := list(islice(rest, size)):
            yield from self.answers(batch, **options)

    def _check(self, options: Mapping[str, Any]) -> None:
        parameters = inspect.signature(self.answers).parameters.values()
        if any(each.kind is each.VAR_KEYWORD for each in parameters):
            return
        known = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
        for name in options:
            if name not in known:
                accepted = f"{', '.join(known) or 'none'}{nearest(name, known)}"
                raise InputError(f"pipeline: found the option '{name}'; accepted: {accepted}")


def _checked_size(batch_size: int) -> int:
    return checked_count("pipeline: batch_size", batch_size)


def given_entries(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in the `generation_config` of a call to `generate`; {} if there is none."""
    from trainer.generation.hub_settings import entries_of

    return entries_of(settings.get("generation_config"))


def padded(
    encodings: Sequence[Mapping[str, Any]],
    pad: int | None,
    device: "torch.device",
    *,
    left: bool = False,
) -> dict[str, "Tensor"]:
    """The tensors [B, longest] for a batch; pads are after each text, or with `left` before it."""
    import torch

    width = max(len(each["input_ids"]) for each in encodings)
    found = {}
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        if name not in encodings[0] and name != "attention_mask":
            continue
        grid = torch.full((len(encodings), width), (pad or 0) if name == "input_ids" else 0)
        for row, each in zip(grid, encodings, strict=True):
            length = len(each["input_ids"])
            cells = slice(width - length, width) if left else slice(0, length)
            row[cells] = torch.tensor(each[name]) if name in each else 1
        found[name] = grid.to(device)
    return found


def _rows(inputs: Any) -> Iterator[Any]:
    """The rows of an iterable, or of a data set that only has a length and numbered rows."""
    if isinstance(inputs, Iterable):
        yield from inputs
    else:
        yield from (inputs[row] for row in range(len(inputs)))
