"""Text classification: labels texts or pairs of texts, as transformers does.

Dimensions: B inputs, C labels.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.errors import InputError, nearest
from trainer.foreign.counts import checked_count
from trainer.pipelines.text_pipeline import TextPipeline

if TYPE_CHECKING:
    from torch import Tensor

FUNCTIONS = ("sigmoid", "softmax", "none")
UNSET: Any = ""
"""The default of `top_k`. It is not None, because None means all labels."""


class TextClassificationPipeline(TextPipeline):
    """`pipeline("text-classification", model)(texts)`."""

    task: ClassVar[str] = "text-classification"
    head: ClassVar[str] = "sequence_classification"

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Label each input with `{"label", "score"}`; returns a list, also for a single text.

        A pair is a mapping {"text": ..., "text_pair": ...}; the names may also be those of the
        columns that the model was trained on. With `top_k`, each answer is a list of the best
        labels, or of all labels if `top_k` is None. `function_to_apply` is sigmoid, softmax or
        none. Other options, such as truncation=True, are passed to the tokenizer. Raises InputError
        for a single text if the model reads pairs.
        """
        found = super().__call__(inputs, **options)
        return [found] if isinstance(inputs, str) and "top_k" not in options else found

    def answers(
        self,
        inputs: Sequence[Any],
        *,
        top_k: int | None = UNSET,
        function_to_apply: str | None = None,
        **tokenizer_options: object,
    ) -> list[Any]:
        if top_k is not None and top_k != UNSET:
            top_k = checked_count("pipeline: top_k", top_k, 0)
        pairs = [self._texts(each) for each in inputs]
        encodings = [self.encoded(*pair, **tokenizer_options) for pair in pairs]
        scores = self._scored(self.forward(encodings).logits, function_to_apply)
        return [self._answer(row.tolist(), top_k) for row in scores.cpu()]

    def _check(self, options: Mapping[str, Any]) -> None:
        """Raise InputError for an option that neither this pipeline nor the tokenizer has."""
        from trainer.tokenizer.call_options import CallOptions

        own = ("top_k", "function_to_apply")
        known = {*own, *CallOptions.__annotations__}
        for name in options:
            if name == "return_all_scores":
                raise InputError(f"pipeline: found the option '{name}'; accepted: top_k=None")
            if name not in known:
                accepted = f"{', '.join(own)}, and those of the tokenizer{nearest(name, known)}"
                raise InputError(f"pipeline: found the option '{name}'; accepted: {accepted}")

    def _texts(self, item: object) -> tuple[Any, ...]:
        """The one or two texts of an input."""
        names = ("text", "text_pair") if self.recipe is None else self.recipe.text_columns
        if isinstance(item, Mapping):
            if len(names) < 2 and "text_pair" in item:
                names = (names[0] if names[0] in item else "text", "text_pair")
            names = names if names[0] in item else ("text", "text_pair")
            if unknown := [name for name in item if name not in names]:
                accepted = f"accepted: {', '.join(names)}"
                raise InputError(f"pipeline: found '{unknown[0]}' in an input; {accepted}")
            needed = names if self._reads_pairs else names[:1]
            if missing := [name for name in needed if name not in item]:
                accepted = f"accepted: {', '.join(names)}"
                raise InputError(f"pipeline: found an input without '{missing[0]}'; {accepted}")
            return tuple(item[name] for name in names if name in item)
        if self._reads_pairs:
            raise InputError(f"pipeline: the model reads pairs; give {{{', '.join(names)}}}")
        return (item,)

    @property
    def _reads_pairs(self) -> bool:
        return self.recipe is not None and len(self.recipe.text_columns) > 1

    def _scored(self, logits: "Tensor", function: str | None) -> "Tensor":
        """Turn logits [B, C] into scores [B, C]; without `function`, the config decides how."""
        config, logits = self.model.config, logits.float()
        problem, classes = getattr(config, "problem_type", None), logits.shape[1]
        if function is None:
            several = problem == "multi_label_classification" or classes == 1
            function = "none" if problem == "regression" else "sigmoid" if several else "softmax"
        if not isinstance(function, str) or function.lower() not in FUNCTIONS:
            accepted = f"accepted: {', '.join(FUNCTIONS)}"
            raise InputError(f"pipeline: function_to_apply: found '{function}'; {accepted}")
        if function.lower() == "none":
            return logits
        return logits.sigmoid() if function.lower() == "sigmoid" else logits.softmax(-1)

    def _answer(self, scores: list[float], top_k: int | None) -> object:
        names = self.model.config.id2label
        found = [{"label": names[number], "score": score} for number, score in enumerate(scores)]
        best = sorted(found, key=lambda answer: -answer["score"])
        return best[0] if top_k == UNSET else best[:top_k]
