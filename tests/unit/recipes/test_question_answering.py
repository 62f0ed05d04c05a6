"""Question answering: windows, positions, n-best, no-answer thresholds, bad rows, a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.question_answering import QuestionAnswering
from trainer.data.answers_in_text import answers_of
from trainer.data.sample_rows import SampleRows
from trainer.errors import InputError
from trainer.models.auto import AutoModelForQuestionAnswering
from trainer.models.config import ModelConfig
from trainer.tasks.answer_spans import best_spans, ranked
from trainer.tasks.columns import Column
from trainer.tasks.recipe import Recipe
from trainer.tokenizer import Tokenizer
from trainer.trainer import Trainer

CONTEXT = (
    "The Nile is in Africa and it is long. The Rhine, which is shorter, is in Europe; "
    "it flows north. The Amazon is in South America, and carries more water than both."
)
ASKED = {
    "Where is the Nile?": "Africa",
    "Where is the Rhine?": "Europe",
    "Where does the Rhine flow?": "north",
    "Where is the Amazon?": "South America",
    "What is long?": "The Nile",
}


def row(question: str, text: str | None, context: str = CONTEXT) -> dict[str, Any]:
    texts = [] if text is None else [text]
    starts = [context.index(each) for each in texts]
    return {
        "question": question,
        "context": context,
        "answers": {"text": texts, "answer_start": starts},
    }


SETTINGS = {"eval_steps": 0, "save_steps": 0, "precision": "fp32"}
ROWS = [row(question, text) for question, text in ASKED.items()]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([CONTEXT, *ASKED] * 3, vocab_size=120, kind="wordpiece")


def columns_of(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [each[name] for each in rows] for name in rows[0]}


def model(seed: int = 1) -> Any:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {"vocab_size": 150, "intermediate_size": 32, "max_position_embeddings": 128}
    entries = {"model_type": "bert", **sizes, **more, "num_labels": 2}
    return AutoModelForQuestionAnswering.from_config(ModelConfig(entries)).double()


def test_windows_cover_the_context_and_share_their_stride(tokenizer: Tokenizer) -> None:
    recipe = QuestionAnswering(max_length=40, stride=8)
    made = recipe.features(columns_of(ROWS), tokenizer)
    for offsets, ids in zip(made["offsets"], made["input_ids"], strict=True):
        assert len(ids) > 1 and all(len(window) <= 40 for window in ids)
        pieces = [[piece for piece in window if piece[0] >= 0] for window in offsets]
        for before, after in zip(pieces, pieces[1:], strict=False):
            assert before[-8:] == after[:8]
        covered = {
            place for window in pieces for start, end in window for place in range(start, end)
        }
        assert covered == {n for n, character in enumerate(CONTEXT) if not character.isspace()}


def test_each_window_learns_the_answer_that_it_has_whole(tokenizer: Tokenizer) -> None:
    recipe = QuestionAnswering(max_length=40, stride=12)
    made = recipe.features(columns_of(ROWS), tokenizer)
    for number, answer in enumerate(ASKED.values()):
        found = []
        windows = zip(
            made["starts"][number], made["ends"][number], made["offsets"][number], strict=True
        )
        for start, end, offsets in windows:
            if start:
                found.append(CONTEXT[offsets[start][0] : offsets[end][1]])
            else:
                assert end == 0
        assert found and set(found) == {answer}


def test_the_best_spans_are_those_of_all_pairs() -> None:
    """Against a loop over every start and end, in windows of unequal lengths."""
    torch.manual_seed(0)
    lengths = torch.tensor([7, 3, 12])
    start, end = torch.randn(2, 22, dtype=torch.float64)
    offsets = torch.stack([torch.arange(22), torch.arange(22) + 1], dim=1)
    offsets[[0, 1, 7, 10, 11]] = -1
    found = best_spans(start, end, lengths, offsets, max_length=4, number=9)
    first = 0
    for window, length in enumerate(lengths.tolist()):
        inside = [t for t in range(first, first + length) if offsets[t, 0] >= 0]
        pairs = [(s, e) for s in inside for e in inside if s <= e < s + 4]
        pairs.sort(key=lambda pair: -(start[pair[0]] + end[pair[1]]).item())
        wanted = [(s, e + 1) for s, e in pairs[:9]]
        wanted += [(-1, -1)] * (9 - len(wanted))
        assert list(map(tuple, found["spans"][window].tolist())) == wanted
        counted = [first, *inside]
        total = start[counted].logsumexp(0) + end[counted].logsumexp(0)
        assert found["normalizers"][window].item() == pytest.approx(total.item(), rel=1e-6)
        assert found["null_scores"][window].item() == pytest.approx((start + end)[first].item())
        first += length


def spans(*windows: list[tuple[int, int, float]], null: float = 0.0) -> dict[str, Column]:
    """The columns of one sample."""
    number = max(map(len, windows))
    filled = [window + [(-1, -1, -1e38)] * (number - len(window)) for window in windows]
    offsets = np.array([0, len(windows)])
    return {
        "spans": Column(np.array([[each[:2] for each in w] for w in filled]), offsets),
        "scores": Column(np.array([[each[2] for each in w] for w in filled]), offsets),
        "null_scores": Column(np.full(len(windows), null), offsets),
        "normalizers": Column(np.full(len(windows), 9.0), offsets),
    }


def test_a_span_of_two_windows_counts_once_and_the_best_leads() -> None:
    columns = spans([(4, 8, 2.0), (0, 3, 1.0)], [(4, 8, 3.0), (10, 12, 2.5)])
    assert [(span[:2], span.score) for span in ranked(columns, 0)] == [
        ((4, 8), 3.0),
        ((10, 12), 2.5),
        ((0, 3), 1.0),
    ]


def sample_rows(rows: list[dict[str, Any]]) -> SampleRows:
    from datasets import Dataset

    return SampleRows(Dataset.from_list(rows), len(rows))


def test_there_is_no_answer_above_the_threshold() -> None:
    columns = spans([(4, 8, 2.0)], null=2.5)
    rows = sample_rows([row("Where?", "Nile")])
    for threshold, answer in ((None, ""), (0.4, ""), (0.6, "Nile")):
        recipe = QuestionAnswering(no_answer=True, no_answer_threshold=threshold, n_best=2)
        (found,) = recipe.answers(columns, rows)
        assert found["answer"] == answer and found["no_answer_score"] == 0.5
        assert found["candidates"] == [
            {"answer": "Nile", "start": 4, "end": 8, "score": pytest.approx(np.exp(-7.0))}
        ]
    (found,) = QuestionAnswering(no_answer=False).answers(columns, rows)
    assert found == {"answer": "Nile", "start": 4, "end": 8, "score": pytest.approx(np.exp(-7.0))}


def test_rows_for_prediction_may_have_answers_that_cannot_be_used() -> None:
    columns = spans([(4, 8, 2.0)])
    rows = [row("Where?", "Nile"), {**row("Where?", "Nile"), "answers": {"text": ["Danube"]}}]
    both = [QuestionAnswering().comparison(columns, sample_rows([each])) for each in rows]
    assert both[0] is not None and both[0].references == [["Nile"]] and both[1] is None


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ({"text": ["Nile"], "answer_start": [4]}, [("Nile", 4)]),
        ({"text": "Nile", "answer_start": 4}, [("Nile", 4)]),
        ([{"text": "Nile", "answer_start": 4}], [("Nile", 4)]),
        ('[{"text": "Nile", "answer_start": 4}]', [("Nile", 4)]),
        ({"text": ["Nile"]}, [("Nile", 4)]),
        ({"text": [], "answer_start": []}, []),
        (None, []),
        ("", []),
    ],
)
def test_the_usual_forms_of_answers(cell: Any, found: list[Any]) -> None:
    assert answers_of(cell, CONTEXT, 0, "answers") == found


BAD = {
    "'Danube' is not in the context": {"text": ["Danube"], "answer_start": [4]},
    "answer_start 5 has 'ile ', not 'Nile', which is at 4": {"text": ["Nile"], "answer_start": [5]},
    "answer_start -1 has 'The ', not 'Nile'": {"text": ["Nile"], "answer_start": [-1]},
    "answer_start 999 has '', not 'Nile'": {"text": ["Nile"], "answer_start": [999]},
    "'is' is in the context 5 times": {"text": ["is"]},
    "found '' as an answer": {"text": [""], "answer_start": [0]},
    "found 7 as an answer": {"text": [7], "answer_start": [0]},
    "answer_start is '4'": {"text": ["Nile"], "answer_start": ["4"]},
    "has 1 texts but starts that do not match": {"text": ["Nile"], "answer_start": [4, 5]},
    "'answers' is 5": 5,
    "is 'Nile'": "Nile",
    "'answers' has no answer; accepted: one, or recipe.no_answer=true": None,
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_answer_is_named_with_its_row(tokenizer: Tokenizer, message: str) -> None:
    rows = columns_of([ROWS[0], {**ROWS[1], "answers": BAD[message]}])
    with pytest.raises(InputError) as failure:
        QuestionAnswering(no_answer=False).features(rows, tokenizer)
    assert failure.value.row == 1  # type: ignore[attr-defined]
    assert message in str(failure.value) and "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        ({"context": ""}, {}, "the context has no tokens"),
        ({"context": "  \n"}, {}, "the context has no tokens"),
        ({"question": "Where is the Nile? " * 9}, {}, "for a window of the context"),
        ({"question": None}, {}, "'question' is null"),
        ({}, {"max_length": 24, "stride": 1}, "no window contains all of"),
    ],
)
def test_a_bad_row_is_named(
    tokenizer: Tokenizer, changed: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    bad = {**row("Where is the Amazon?", CONTEXT[30:90]), **changed}
    if "context" in changed:
        bad["answers"] = {"text": [], "answer_start": []}
    recipe = QuestionAnswering(**{"max_length": 64, "stride": 16, **options})
    with pytest.raises(InputError, match=message) as failure:
        recipe.features(columns_of([ROWS[0], bad]), tokenizer)
    assert failure.value.row == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "options", [{"max_length": 0}, {"stride": 400}, {"stride": -1}, {"n_best": 0}]
)
def test_impossible_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"recipe.{next(iter(options))}"):
        QuestionAnswering(**options)


def test_special_tokens_and_stride_must_leave_room(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="recipe.max_length: found 11"):
        QuestionAnswering(max_length=11, stride=8).features(columns_of(ROWS), tokenizer)


def test_a_run_learns_answers_and_ships_the_threshold(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Through windows, with questions that have no answer, and back from the folder."""
    import trainer

    nothing = [row(f"Where is the {name}?", None) for name in ("Danube", "Thames", "Volga")]
    rows = ROWS + nothing
    run = Trainer(
        model(),
        QuestionAnswering(max_length=96, stride=16, n_best=3),
        {"num_epochs": 40, "learning_rate": 1e-2, "global_batch_size": 4, **SETTINGS},
        tokenizer=tokenizer,
        train_dataset=rows,
        eval_dataset=rows,
        metrics={"squad": squad()},
        output_dir=tmp_path / "run",
    )
    assert run.recipe.no_answer is True
    metrics = run.fit()["metrics"]
    assert metrics["eval_best_f1"] >= 70.0
    assert metrics["eval_f1"] == pytest.approx(metrics["eval_best_f1"])
    saved = json.loads((tmp_path / "run/model/recipe.json").read_text())["fields"]
    assert saved["no_answer_threshold"] == pytest.approx(metrics["eval_best_f1_threshold"])
    again = Trainer(
        str(tmp_path / "run/model"),
        QuestionAnswering(**saved),
        {"precision": "fp32"},
        tokenizer=tokenizer,
        metrics={"squad": squad()},
    )
    assert again.evaluate(rows)["eval_f1"] == pytest.approx(metrics["eval_best_f1"])
    asked = [{name: each[name] for name in ("question", "context")} for each in rows]
    answers = again.answers(asked)
    assert [len(each["candidates"]) for each in answers] == [3] * len(rows)
    for given in answers:
        assert given["answer"] == CONTEXT[given["start"] : given["end"]]
    ask = trainer.pipeline("question-answering", str(tmp_path / "run/model"))
    found = ask(question="Where is the Nile?", context=CONTEXT)
    assert CONTEXT[found["start"] : found["end"]] == found["answer"]


def squad() -> Any:
    from trainer.metrics.question_answering import Squad

    return Squad(no_answer=True)


def test_an_evaluation_is_the_same_for_any_batch_size(tokenizer: Tokenizer) -> None:
    found = []
    for tokens in (40, 200, 10_000):
        run = Trainer(
            model(),
            QuestionAnswering(max_length=40, stride=12, n_best=4),
            {"precision": "fp32", "max_tokens_per_micro_batch": tokens},
            tokenizer=tokenizer,
            eval_dataset=ROWS,
            metrics={"squad": squad()},
        )
        found.append((run.evaluate(), run.answers(ROWS)))
    for metrics, answers in found[1:]:
        assert metrics == pytest.approx(found[0][0], rel=1e-9, nan_ok=True)
        assert [each["answer"] for each in answers] == [each["answer"] for each in found[0][1]]


def test_squad_files_become_rows(tmp_path: Path) -> None:
    from trainer.data.formats import read

    asked = [
        {"id": "a", "question": "Where?", "answers": [{"text": "Nile", "answer_start": 4}]},
        {
            "id": "b",
            "question": "Who?",
            "answers": [],
            "is_impossible": True,
            "plausible_answers": [{"text": "The", "answer_start": 0}],
        },
    ]
    article = {"title": "Rivers", "paragraphs": [{"context": CONTEXT, "qas": asked}]}
    file = tmp_path / "dev.json"
    file.write_text(json.dumps({"version": "v2.0", "data": [article]}))
    rows = read(file, "dataset.train").to_pylist()
    assert [each["question"] for each in rows] == ["Where?", "Who?"]
    assert {each["context"] for each in rows} == {CONTEXT}
    assert [each["id"] for each in rows] == ["a", "b"]
    article["paragraphs"][0]["qas"][0]["answers"] = [{"text": "Nile"}]  # type: ignore[index]
    file.write_text(json.dumps({"version": "v2.0", "data": [article]}))
    with pytest.raises(InputError, match=r"article 1, paragraph 1, question 1: 'answers': found"):
        read(file, "dataset.train")


def test_the_tokens_of_windows_are_counted_without_making_them(tokenizer: Tokenizer) -> None:
    for question, context, stride in (
        ("who", "Ann", 8),
        ("who", "Ann saw Bob. " * 30, 0),
        ("who", "Ann saw Bob. " * 30, 20),
        ("who " * 5, "Ann saw Bob. " * 9, 13),  # a window for each token
    ):
        recipe = QuestionAnswering(max_length=32, stride=stride)
        rows = {"question": [question] * 2, "context": [context, "Ann"]}
        windows = Recipe.num_read_tokens(recipe, rows, tokenizer)
        assert recipe.num_read_tokens(rows, tokenizer) == windows
