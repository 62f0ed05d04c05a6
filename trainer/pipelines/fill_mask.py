"""Fill mask: predicts masked tokens, in transformers' output format."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from trainer.errors import InputError
from trainer.foreign.counts import checked_count
from trainer.pipelines.text_pipeline import TextPipeline


class FillMaskPipeline(TextPipeline):
    """`pipeline("fill-mask", model)("Paris is the [MASK] of France.")`."""

    task: ClassVar[str] = "fill-mask"
    head: ClassVar[str] = "masked_lm"

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """The `top_k` best tokens for a mask: `[{"score", "token", "token_str", "sequence"}]`.

        If a text has several masks, or if there are several texts, one such list is returned for
        each. `targets` are the candidate words. `tokenizer_kwargs`, such as truncation=True, are
        passed to the tokenizer. Raises InputError for a text without a mask token.
        """
        found = super().__call__(inputs, **options)
        return found[0] if isinstance(inputs, list) and len(inputs) == 1 else found

    def answers(
        self,
        inputs: Sequence[Any],
        *,
        top_k: int = 5,
        targets: str | Sequence[str] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        top_k = checked_count("pipeline: top_k", top_k)
        chosen = None if targets is None else self._ids_of(targets)
        encodings = [self.encoded(text, **(tokenizer_kwargs or {})) for text in inputs]
        masks_of_texts = [
            self._masks(text, each["input_ids"])
            for text, each in zip(inputs, encodings, strict=True)
        ]
        logits = self.forward(encodings).logits
        return [
            self._filled(each["input_ids"], masks, row[masks].float().cpu(), top_k, chosen)
            for each, masks, row in zip(encodings, masks_of_texts, logits, strict=True)
        ]

    def _masks(self, text: object, ids: Sequence[int]) -> list[int]:
        mask = self.tokenizer.mask_token_id
        masks = [index for index, token in enumerate(ids) if token == mask]
        if mask is None or not masks:
            found = f"{text!r:.60} has no mask token ({self.tokenizer.mask_token})"
            raise InputError(f"pipeline: {found}; accepted: a text with at least one")
        return masks

    def _filled(
        self,
        ids: list[int],
        masks: list[int],
        logits: Any,
        top_k: int,
        targets: list[int] | None,
    ) -> object:
        """The proposals for each mask of a text, computed from its logits [masks, V]."""
        shares = logits.softmax(-1)
        if targets is not None:
            shares = shares[:, targets]
        best = shares.topk(min(top_k, shares.shape[1]))
        rows = [
            [
                self._proposal(
                    ids, index, n if targets is None else targets[n], score, len(masks) == 1
                )
                for score, n in zip(scores, columns, strict=True)
            ]
            for index, scores, columns in zip(
                masks, best.values.tolist(), best.indices.tolist(), strict=True
            )
        ]
        return rows[0] if len(rows) == 1 else rows

    def _proposal(
        self, ids: list[int], index: int, token: int, score: float, alone: bool
    ) -> dict[str, Any]:
        """One token for a mask, and the text with the token in place of the mask.

        The text has no special tokens, such as further masks, if the mask is `alone`.
        """
        filled = [*ids[:index], token, *ids[index + 1 :]]
        kept = [each for each in filled if each != self.tokenizer.pad_token_id]
        return {
            "score": score,
            "token": token,
            "token_str": self.tokenizer.decode([token]),
            "sequence": self.tokenizer.decode(kept, skip_special_tokens=alone),
        }

    def _ids_of(self, targets: str | Sequence[str]) -> list[int]:
        """The ids of words; a word of several tokens is represented by its first token."""
        several = isinstance(targets, Iterable) and not isinstance(targets, str)
        words = list(targets) if several else [targets]
        if not all(isinstance(word, str) for word in words):
            raise InputError(f"pipeline: targets: found {targets!r:.60}; accepted: words")
        vocabulary = self.tokenizer.get_vocab()
        found = []
        for word in words:
            ids = [vocabulary[word]] if word in vocabulary else None
            ids = ids or self.tokenizer(word, add_special_tokens=False)["input_ids"]
            if not ids:
                raise InputError(f"pipeline: targets: {word!r:.40} has no tokens; accepted: words")
            found.append(ids[0])
        if not found:
            raise InputError("pipeline: targets: found none; accepted: at least one word")
        return sorted(set(found))
