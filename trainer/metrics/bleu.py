"""BLEU (Papineni et al., 2002) and chrF (Popović, 2015) through sacrebleu."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from trainer.errors import InputError
from trainer.metrics.metric import Metric


@dataclass(frozen=True)
class Bleu(Metric):
    """Corpus BLEU, 0 to 100, as `sacrebleu` computes it; a reference may be a list of texts."""

    tokenize: str = "13a"
    """sacrebleu's tokenization, such as 13a, intl, zh, char or none."""
    lowercase: bool = False
    """Whether to ignore case."""

    name: ClassVar[str] = "bleu"
    greater_is_better = True
    kinds: ClassVar[tuple[str, ...]] = ("texts",)

    def names(self) -> tuple[str, ...]:
        return ("bleu",)

    def prepare(self) -> None:
        self._scorer()

    def compute(self, predictions: Any, references: Any) -> dict[str, float]:
        if not len(predictions):
            return {"bleu": math.nan}
        return {"bleu": self._scorer()(list(predictions), streams(references)).score}

    def _scorer(self) -> Callable[..., Any]:
        """sacrebleu's `corpus_score`. Raises InputError for a tokenization that it cannot load."""
        kind = sacrebleu().BLEU
        if self.tokenize not in kind.TOKENIZERS:
            accepted = ", ".join(kind.TOKENIZERS)
            raise InputError(f"metrics.tokenize: found '{self.tokenize}'; accepted: {accepted}")
        try:
            found = kind(tokenize=self.tokenize, lowercase=self.lowercase)
        except (RuntimeError, ImportError, OSError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"metrics.tokenize: '{self.tokenize}': {reason}") from error
        return found.corpus_score  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Chrf(Metric):
    """Corpus chrF, 0 to 100, as `sacrebleu` computes it; a reference may be a list of texts."""

    word_order: int = 0
    """The maximum length of word n-grams, in addition to character n-grams; 2 for chrF++."""

    name: ClassVar[str] = "chrf"
    greater_is_better = True
    kinds: ClassVar[tuple[str, ...]] = ("texts",)

    def names(self) -> tuple[str, ...]:
        return ("chrf",)

    def prepare(self) -> None:
        sacrebleu()

    def compute(self, predictions: Any, references: Any) -> dict[str, float]:
        if not len(predictions):
            return {"chrf": math.nan}
        metric = sacrebleu().CHRF(word_order=self.word_order)
        return {"chrf": metric.corpus_score(list(predictions), streams(references)).score}


def sacrebleu() -> Any:
    """sacrebleu's metrics. Raises InputError if the package is missing."""
    try:
        from sacrebleu import metrics
    except ImportError:
        accepted = "accepted: after pip install 'tempering[texts]'"
        raise InputError(f"metrics: the package sacrebleu is missing; {accepted}") from None
    return metrics


def streams(references: Sequence[Any]) -> list[list[str | None]]:
    """The references in sacrebleu's form: a list of all first references, then of all second ones.

    Each of `references` is a text or a list of texts. Missing references are None.
    """
    lists = [[each] if isinstance(each, str) else list(each) for each in references]
    most = max(map(len, lists))
    return [[each[n] if n < len(each) else None for each in lists] for n in range(most)]
