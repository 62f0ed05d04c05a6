"""Token classification: labels tokens or finds entities, as transformers does."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from trainer.errors import InputError
from trainer.foreign.counts import whole
from trainer.pipelines.entity_groups import (
    STRATEGIES,
    ScoredToken,
    entities_of,
    without_overlaps,
)
from trainer.pipelines.text_pipeline import TextPipeline

OF_WINDOWS = (
    *("input_ids", "attention_mask", "token_type_ids"),
    *("offset_mapping", "special_tokens_mask"),
)
"""The columns of an encoding that the pipeline needs."""


class TokenClassificationPipeline(TextPipeline):
    """`pipeline("token-classification", model)("Ada lives in Paris")`, also as "ner"."""

    task: ClassVar[str] = "token-classification"
    head: ClassVar[str] = "token_classification"

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """For each text, a list of tokens: `{"entity", "score", "index", "word", "start", "end"}`.

        If `aggregation_strategy` is simple, first, max or average, it is a list of entities:
        `{"entity_group", "score", "word", "start", "end"}`. Tokens or entities with one of
        `ignore_labels` (by default O) are left out. With `stride`, long texts are split into
        windows that share this many tokens. With `is_split_into_words`, texts are lists of words,
        which are joined by `delimiter`. `offset_mapping` replaces the offsets of the tokenizer.
        """
        split = options.get("is_split_into_words", self.options.get("is_split_into_words"))
        if split and isinstance(inputs, list) and any(isinstance(each, str) for each in inputs):
            inputs = [inputs]  # as in transformers, the result is a list with one text's answer
        return super().__call__(inputs, **options)

    def answers(
        self,
        inputs: Sequence[Any],
        *,
        aggregation_strategy: str = "none",
        ignore_labels: str | Sequence[str] | None = None,
        stride: int | None = None,
        is_split_into_words: bool = False,
        delimiter: str = " ",
        offset_mapping: Any = None,
    ) -> list[Any]:
        strategy = str(getattr(aggregation_strategy, "value", aggregation_strategy)).lower()
        self._check_strategy(strategy, stride)
        ignored = ["O"] if ignore_labels is None else ignore_labels
        ignored = [ignored] if isinstance(ignored, str) else ignored  # not a part of its name
        windows = [
            (number, window)
            for number, text in enumerate(inputs)
            for window in self._windows(text, stride, is_split_into_words, delimiter)
        ]
        if offset_mapping is not None:
            for number, window in windows:
                several = isinstance(offset_mapping[0][0], (list, tuple))
                window["offset_mapping"] = offset_mapping[number] if several else offset_mapping
        logits = self.forward([window for _, window in windows]).logits.float()
        scores = logits.softmax(-1).cpu()
        found: list[list[dict[str, Any]]] = [[] for _ in inputs]
        counts = [0] * len(inputs)
        for (number, window), rows in zip(windows, scores, strict=True):
            tokens = list(self._tokens(window, rows, strategy))
            entities = entities_of(tokens, strategy, self._joined, self.model.config.id2label)
            label = "entity" if strategy == "none" else "entity_group"
            found[number] += [each for each in entities if each[label] not in ignored]
            counts[number] += 1
        return [
            without_overlaps(entities) if count > 1 else entities
            for entities, count in zip(found, counts, strict=True)
        ]

    def _check_strategy(self, strategy: str, stride: int | None) -> None:
        if strategy not in STRATEGIES:
            accepted = f"accepted: {', '.join(STRATEGIES)}"
            raise InputError(f"pipeline: aggregation_strategy: found '{strategy}'; {accepted}")
        if stride is None:
            return
        most, number = min(self.tokenizer.model_max_length, self._room), whole(stride)
        if strategy == "none" or number is None or not 0 <= number < most:
            accepted = f"0 to {most - 1}, with an aggregation_strategy"
            raise InputError(f"pipeline: stride: found {stride!r:.40}; accepted: {accepted}")

    def _windows(
        self, text: object, stride: int | None, split: bool, delimiter: str
    ) -> Iterator[dict[str, Any]]:
        """Yield the encoding of each window of a text, with character offsets and the text."""
        if not isinstance(text, list if split else str):
            accepted = "a list of words" if split else "a text, or is_split_into_words=True"
            raise InputError(f"pipeline: found {text!r:.60}; accepted: {accepted}")
        options: dict[str, Any] = {"truncation": True}
        if self.tokenizer.model_max_length > self._room:
            options["max_length"] = self._room
        if stride is not None:
            options |= {"return_overflowing_tokens": True, "stride": stride}
        found = self.tokenizer(
            [text],
            return_special_tokens_mask=True,
            return_offsets_mapping=True,
            is_split_into_words=split,
            **options,
        )
        starts = _starts(text, len(delimiter)) if split else None
        for row in range(len(found["input_ids"])):
            window = {name: found[name][row] for name in OF_WINDOWS if name in found}
            if starts is not None:
                tokens = zip(window["offset_mapping"], found.word_ids(row), strict=True)
                window["offset_mapping"] = [
                    (start, end) if word is None else (start + starts[word], end + starts[word])
                    for (start, end), word in tokens
                ]
            yield {**window, "sentence": delimiter.join(text) if split else text}

    def _tokens(self, window: Mapping[str, Any], rows: Any, strategy: str) -> Iterator[ScoredToken]:
        """Yield the tokens of a window with their scores, without special tokens."""
        ids, sentence = window["input_ids"], window["sentence"]
        words = self.tokenizer.convert_ids_to_tokens(ids)
        known_prefix = getattr(self.tokenizer.backend.model, "continuing_subword_prefix", None)
        for index, (start, end) in enumerate(window["offset_mapping"]):
            if window["special_tokens_mask"][index]:
                continue
            start, end, word = int(start), int(end), words[index]
            written = sentence[start:end]
            if known_prefix:
                continues = len(word) != len(written)
            else:  # the tokenizer marks no continuations, so words are separated by spaces
                continues = start > 0 and " " not in sentence[start - 1 : start + 1]
            if ids[index] == self.tokenizer.unk_token_id:
                word, continues = written, False
            yield ScoredToken(word, rows[index], start, end, index, continues)

    def _joined(self, words: Sequence[str]) -> str:
        joined: str = self.tokenizer.convert_tokens_to_string(list(words))
        return joined


def _starts(words: Sequence[str], gap: int) -> list[int]:
    """The position of each word's first character in the joined text."""
    starts, position = [], 0
    for word in words:
        starts.append(position)
        position += len(word) + gap
    return starts
