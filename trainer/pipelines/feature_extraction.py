"""Feature extraction: returns the last hidden states of texts, as transformers does.

Dimensions: L tokens, D channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from trainer.errors import InputError
from trainer.pipelines.text_pipeline import TextPipeline


class FeatureExtractionPipeline(TextPipeline):
    """`pipeline("feature-extraction", model)(texts)`: a list [1, L, D] for each text."""

    task: ClassVar[str] = "feature-extraction"

    def answers(
        self,
        inputs: Sequence[Any],
        *,
        truncation: bool | str | None = None,
        tokenize_kwargs: Mapping[str, Any] | None = None,
        return_tensors: bool = False,
    ) -> list[Any]:
        """The hidden states of each text, [1, L, D], as lists or (`return_tensors`) as tensors."""
        options = dict(tokenize_kwargs or {})
        if truncation is not None:
            if "truncation" in options:
                raise InputError("pipeline: truncation: found it twice; accepted: once")
            options["truncation"] = truncation
        encodings = [self.encoded(text, **options) for text in inputs]
        grid = self.forward(encodings)[0].cpu()
        found = [
            states[: len(each["input_ids"])].unsqueeze(0)
            for states, each in zip(grid, encodings, strict=True)
        ]
        return found if return_tensors else [states.tolist() for states in found]
