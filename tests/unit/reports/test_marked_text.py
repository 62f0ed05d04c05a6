"""Marked text: the spans are marked in the text that they belong to."""

from typing import Any

from trainer.reports.marked_text import marked_answer, marked_spans

TEXT = "Ann lives in Oslo, and Bob in Rome."


def test_spans_are_in_their_text_even_if_nothing_was_predicted() -> None:
    """The first cell of a row need not be the text."""
    oslo: dict[str, Any] = {"start": 13, "end": 17, "label": "loc"}
    for text in (TEXT, TEXT.split(" ")):
        line = {"input": {"id": "doc-7", "text": text}, "entities": [], "reference": [oslo]}
        found = marked_spans(line)
        assert '<mark class="missed">Oslo' in found and found.count(TEXT[:13]) == 2
        found = marked_spans({**line, "reference": []})
        assert found.count(TEXT) == 2 and "doc-7" not in found
    long = {"input": {"text": TEXT, "note": "x" * 99}, "reference": [oslo]}
    found = marked_spans({**long, "entities": [{**oslo, "text": "Oslo"}]})
    assert found.count('<mark class="right">Oslo') == 2 and "xxx" not in found


def test_an_answer_is_in_its_context_even_if_there_is_none() -> None:
    given = {"title": "A", "question": "Where does Ann live?", "context": TEXT}
    none = {"answer": "", "start": 0, "end": 0}
    for answers in ({"text": ["Oslo"], "answer_start": [13]}, {"text": [], "answer_start": []}):
        found = marked_answer({"input": {**given, "answers": answers}, **none})
        assert f'class="text">{TEXT}' in found, found
    wrong = {"answer": "Ann", "start": 0, "end": 3, "input": {**given, "context": TEXT}}
    assert '<mark class="wrong">Ann</mark> lives' in marked_answer(wrong)
