"""Replaced token detection: finds the tokens of a text that a generator has replaced."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from trainer.pipelines.text_pipeline import TextPipeline


class ReplacedTokenDetectionPipeline(TextPipeline):
    """`pipeline("replaced-token-detection", model)("the chef ate the meal")` for ELECTRA."""

    task: ClassVar[str] = "replaced-token-detection"
    head: ClassVar[str] = "replaced_token_detection"

    def answers(self, inputs: Sequence[Any]) -> list[Any]:
        """For each text its tokens, `{"word", "score", "replaced", "index", "start", "end"}`.

        The score is the probability that the token was replaced; `replaced` says whether it is
        above 0.5. Special tokens are left out.
        """
        options = {"return_special_tokens_mask": True, "return_offsets_mapping": True}
        encodings = [self.encoded(text, **options) for text in inputs]
        scores = self.forward(encodings).logits.float().sigmoid().cpu()
        return [
            self._tokens(each, row.tolist()) for each, row in zip(encodings, scores, strict=True)
        ]

    def _tokens(self, encoding: Mapping[str, Any], scores: list[float]) -> list[dict[str, Any]]:
        words = self.tokenizer.convert_ids_to_tokens(encoding["input_ids"])
        found = []
        for index, (word, score) in enumerate(zip(words, scores, strict=False)):
            if not encoding["special_tokens_mask"][index]:
                start, end = map(int, encoding["offset_mapping"][index])
                place = {"index": index, "start": start, "end": end}
                found.append({"word": word, "score": score, "replaced": score > 0.5, **place})
        return found
