"""The three jobs from the command line on a tiny model: their files, output and errors."""

import io
import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer import AutoModelForSequenceClassification, AutoTokenizer
from trainer.jobs import predict
from trainer.models.config import ModelConfig
from trainer.rendering import evaluation_progress

Ask = Callable[..., Any]

DATA = ("dataset.train=train.jsonl", "dataset.validation=dev.jsonl")
FAST = ("trainer.learning_rate=3e-3", "trainer.num_epochs=4", "trainer.global_batch_size=16")


def test_a_run_learns_and_says_where_everything_is(trained: Path, capsys: Any) -> None:
    results = json.loads((trained / "results.json").read_text())
    assert results["metrics"]["eval_accuracy"] >= 0.95
    assert results["steps"] == 24 and results["train_samples"] == 96
    assert results["model_path"] == "run/model"
    assert {"evaluate", "predict", "repeat", "extend"} <= results["commands"].keys()
    assert [row["label"] for row in results["report"]["classes"]] == ["bad", "good"]
    names = {path.name for path in trained.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "predictions.jsonl", "model"} <= names
    assert not [name for name in names if name.startswith(".")]


def test_the_same_command_again_changes_nothing(
    trained: Path, ask: Ask, tiny: Path, tree: Any
) -> None:
    before = tree(trained)
    answer = ask(f"model.path={tiny}", *DATA, *FAST, "output_dir=run")
    assert answer.code == 0 and "complete" in answer.out
    assert tree(trained) == before


def test_a_run_is_repeated_from_its_config(trained: Path, ask: Ask) -> None:
    assert ask("from=run", "output_dir=again").code == 0
    first, second = (
        Path(folder, "model/model.safetensors").read_bytes() for folder in ("run", "again")
    )
    assert first == second


def test_transformers_and_this_package_agree_on_the_saved_model(trained: Path) -> None:
    import transformers

    text = ["a happy day", "awful awful ugly day", "day"]
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(trained / "model")
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(trained / "model")
    ours = AutoModelForSequenceClassification.from_pretrained(trained / "model")
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    assert theirs.config.id2label == ours.config.id2label == {0: "bad", 1: "good"}
    with torch.no_grad():
        expected = theirs.eval()(**their_tokenizer(text, padding=True, return_tensors="pt")).logits
        found = ours(**tokenizer(text, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_evaluate_repeats_the_runs_own_figures(trained: Path, ask: Ask) -> None:
    model = f"model.path={trained / 'model'}"
    answer = ask("job=evaluate", model, "dataset.validation=dev.jsonl", "output_dir=measured")
    assert answer.code == 0, answer.err
    found = json.loads(Path("measured/evaluation.json").read_text())["metrics"]
    trained_with = json.loads((trained / "results.json").read_text())["metrics"]
    assert found["eval_accuracy"] == trained_with["eval_accuracy"]
    assert found["eval_loss"] == pytest.approx(trained_with["eval_loss"], rel=1e-6)
    lines = Path("measured/evaluation-predictions.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == 40 and losses == sorted(losses, reverse=True)


def test_the_printed_commands_work(trained: Path, ask: Ask) -> None:
    commands = json.loads((trained / "results.json").read_text())["commands"]
    for name in ("evaluate", "extend"):
        words = shlex.split(commands[name])
        assert words[:2] == ["python", "launch.py"]
        answer = ask(*words[2:])
        assert answer.code == 0, answer.err
        assert name != "extend" or "finished 48 steps" in answer.out


def predicted(answer: Any) -> list[dict[str, Any]]:
    assert answer.code == 0, answer.err
    return [json.loads(line) for line in answer.out.splitlines()]


@pytest.mark.parametrize(
    "text",
    ["We hope you don't hate it.", "a, b = f(x), 12", "12", "${x}", "[not json", "éa 🤗", "a=b"],
)
def test_free_text_arrives_as_it_is(trained: Path, ask: Ask, text: str) -> None:
    found = predicted(ask("job=predict", f"model.path={trained / 'model'}", f"input.text={text}"))
    assert [row["text"] for row in found] == [text]
    assert sum(found[0]["probabilities"].values()) == pytest.approx(1.0)


def test_predict_many_in_order(trained: Path, ask: Ask, monkeypatch: Any) -> None:
    model = f"model.path={trained / 'model'}"
    texts = ["great lovely", "ugly sad cruel", "happy " * 30, "awful"]
    labels = ["good", "bad", "good", "bad"]
    listed = predicted(ask("job=predict", model, f"input.text={json.dumps(texts)}"))
    assert [row["text"] for row in listed] == texts
    assert [row["label"] for row in listed] == labels
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(texts) + "\n"))
    assert predicted(ask("job=predict", model, "input.text=-")) == listed
    rows = [{"id": i, "text": text, "label": "unknown"} for i, text in enumerate(texts)]
    Path("in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    answer = ask("job=predict", model, "input.file=in.jsonl", "output.file=out.jsonl")
    assert answer.code == 0 and answer.out == "4 rows written to out.jsonl\n"
    written = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in written] == [0, 1, 2, 3]
    assert [row["label"] for row in written] == labels
    scores = [row["score"] for row in written]
    assert np.allclose(scores, [row["score"] for row in listed], atol=1e-6)


def test_a_long_evaluation_says_how_far_it_is(
    trained: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Progress goes to standard output, or to standard error if that holds the results."""
    monkeypatch.setattr(evaluation_progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(predict, "ROWS_AT_A_TIME", 32)
    model = f"model.path={trained / 'model'}"
    small = "trainer.max_tokens_per_micro_batch=64"
    train = ask("from=run", "output_dir=told", small, "trainer.max_steps=1")
    measured = ask(
        "job=evaluate", model, "dataset.validation=dev.jsonl", "output_dir=told-too", small
    )
    for answer in (train, measured):
        told = [line for line in answer.out.splitlines() if line.startswith("evaluating")]
        places = [int(line.split("samples ")[1].split("/40")[0]) for line in told]
        assert answer.code == 0 and len(places) > 3 and places == sorted(set(places)), answer
    answer = ask("job=predict", model, "input.file=dev.jsonl", small)
    told = answer.err.splitlines()
    places = [int(line.split("samples ")[1].split("/40")[0]) for line in told]
    assert all(line.startswith("evaluating  samples ") for line in told)
    assert len(places) > 3 and places == sorted(set(places)) and places[-1] > 32
    assert len(predicted(answer)) == 40  # standard output holds only answers


def test_a_foreign_model_tells_its_task(ask: Ask, tiny: Path, table: Path) -> None:
    """A folder as saved by transformers: no recipe.json, the task in `architectures`."""
    import transformers

    labels = {
        "id2label": {0: "no", 1: "maybe", 2: "yes"},
        "label2id": {"no": 0, "maybe": 1, "yes": 2},
    }
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny, **labels)
    model.save_pretrained("foreign")
    transformers.AutoTokenizer.from_pretrained(tiny).save_pretrained("foreign")
    found = predicted(ask("job=predict", "model.path=foreign", "input.text=a day"))
    assert list(found[0]["probabilities"]) == ["no", "maybe", "yes"]


def test_a_recipe_says_the_task_if_the_folder_does_not(
    ask: Ask, trained: Path, tiny: Path, tmp_path: Path
) -> None:
    """The labels are in config.json. Without weights of a head no answers are made up."""
    folder = tmp_path / "unnamed"
    shutil.copytree(trained / "model", folder)
    (folder / "recipe.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    wanted = predicted(ask("job=predict", f"model.path={folder}", "input.text=a day"))
    for name in ("BertModel", "BertForNextSentencePrediction"):
        (folder / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
        predict = ("job=predict", f"model.path={folder}", "input.text=a day")
        assert ask(*predict).code == 2
        assert predicted(ask(*predict, "recipe=sequence_classification")) == wanted
    options = ("recipe.labels=[a,b]", "recipe.problem=single_label")
    for job in (("job=predict", "input.text=a"), ("job=evaluate", "dataset.train=dev.jsonl")):
        answer = ask(*job, f"model.path={tiny}", "recipe=sequence_classification", *options)
        assert answer.code == 2 and "has no weights for head.classifier" in answer.err


def test_another_head_is_asked_for(ask: Ask, trained: Path) -> None:
    rows = [{"text": "a", "label": name} for name in ("x", "y", "z")]
    Path("three.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = ("dataset.train=three.jsonl", "dataset.validation_fraction=0")
    new = (f"model.path={trained / 'model'}", *data, "output_dir=three")
    answer = ask(*new, "trainer.max_steps=1")
    assert answer.code == 2 and "model.new_head=true" in answer.err
    assert not Path("three").exists()
    assert ask(*new, "trainer.max_steps=1", "model.new_head=true").code == 0
    config = json.loads(Path("three/model/config.json").read_text())
    assert config["id2label"] == {"0": "x", "1": "y", "2": "z"}


def test_several_named_evaluation_sets(ask: Ask, tiny: Path, table: Path) -> None:
    sets = "dataset.validation={matched: dev.jsonl, mismatched: other.jsonl}"
    Path("other.jsonl").write_text(Path("dev.jsonl").read_text().replace("bad", "good", 3))
    command = (f"model.path={tiny}", "dataset.train=train.jsonl", sets, "output_dir=run")
    answer = ask(*command, "trainer.max_steps=2")
    assert answer.code == 0, answer.err
    metrics = json.loads(Path("run/results.json").read_text())["metrics"]
    assert {"eval_matched_accuracy", "eval_mismatched_loss"} <= metrics.keys()
    assert Path("run/predictions-mismatched.jsonl").exists()


def test_trackers_by_name(ask: Ask, tiny: Path, table: Path) -> None:
    extra = ("trainer.trackers=[tensorboard]", "trainer.max_steps=2", "trainer.logging_steps=1")
    assert ask(f"model.path={tiny}", *DATA, *extra, "output_dir=run").code == 0
    assert list(Path("run/trackers").rglob("events.out.tfevents.*"))


BAD_ROWS: list[tuple[str, str]] = [
    ("", "no rows"),
    ('{"text": "a", "label": "x"}\n{"text": \n', "train.jsonl:2"),
    ('{"words": "a", "label": "x"}\n{"words": "a", "label": "y"}\n', "no column 'text'"),
    (
        '{"text": "a", "label": "x"}\n{"text": null, "label": "y"}\n',
        "train.jsonl:2: 'text' is null",
    ),
    ('{"text": "a", "tag": "x"}\n', "no column 'label'"),
    ('{"text": "a", "label": "x"}\n{"text": "a", "label": null}\n', "holds only one label, x"),
    (
        '{"text": "a", "label": "x"}\n{"text": "a", "label": "y"}\n\n{"text": "a"}\n',
        "train.jsonl:4: 'label' is missing",
    ),
]


@pytest.mark.parametrize(("content", "message"), BAD_ROWS)
def test_bad_rows(content: str, message: str, refused: Any, tiny: Path) -> None:
    Path("train.jsonl").write_text(content)
    line = refused(
        f"model.path={tiny}", "dataset.train=train.jsonl", "dataset.validation_fraction=0"
    )
    assert message in line


def test_more_bad_data(refused: Any, tiny: Path, trained: Path) -> None:
    model = f"model.path={tiny}"
    assert "none.jsonl" in refused(model, "dataset.train=none.jsonl")
    assert "accepted" in refused(model, *DATA, "recipe.labels=[x, y]", "output_dir=new")
    Path("other.jsonl").write_text('{"text": "a", "label": "fine"}\n')
    unknown = refused(
        "job=evaluate", f"model.path={trained / 'model'}", "dataset.validation=other.jsonl"
    )
    assert "'fine'; accepted: bad, good" in unknown
    Path("numbers.jsonl").write_text('{"text": "a", "label": 7}\n')
    out_of_range = refused(
        "job=evaluate", f"model.path={trained / 'model'}", "dataset.validation=numbers.jsonl"
    )
    assert "7; accepted: bad, good" in out_of_range


def damaged(tiny: Path, name: str) -> Path:
    """A copy of the tiny model's folder, to be damaged."""
    folder = Path(name)
    folder.mkdir()
    for file in tiny.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def spoil(folder: Path, kind: str) -> None:
    config, weights = folder / "config.json", folder / "model.safetensors"
    entries = json.loads(config.read_text())
    match kind:
        case "no config":
            config.unlink()
        case "unknown family":
            config.write_text(json.dumps({**entries, "model_type": "nonesuch"}))
        case "auto_map":
            config.write_text(json.dumps({**entries, "auto_map": {"AutoModel": "x.y"}}))
        case "other shape":
            config.write_text(json.dumps({**entries, "intermediate_size": 48}))
        case "missing tensor":
            config.write_text(json.dumps({**entries, "num_hidden_layers": 3}))
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "git-lfs":
            weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
        case "pickle only":
            weights.rename(folder / "pytorch_model.bin")
        case "shard outside":
            weights.unlink()
            index = {"weight_map": {"embeddings.word_embeddings.weight": "../x.safetensors"}}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))


SPOILT = {
    "no config": "config.json",
    "unknown family": "'nonesuch'; accepted: albert, bart, bert",
    "auto_map": "auto_map",
    "other shape": "shape",
    "missing tensor": "encoder.layer.2",
    "truncated": "model.safetensors",
    "git-lfs": "git-lfs",
    "pickle only": "pytorch_model.bin",
    "shard outside": "../x.safetensors",
}


@pytest.mark.parametrize("kind", SPOILT)
def test_bad_models(kind: str, refused: Any, tiny: Path, table: Path) -> None:
    spoil(damaged(tiny, "spoilt"), kind)
    assert SPOILT[kind] in refused("model.path=./spoilt", *DATA)


def test_signals_save_and_resume(ask: Ask, tiny: Path, table: Path, monkeypatch: Any) -> None:
    """SIGTERM gives exit 143 and a checkpoint; the resumed run equals an undisturbed one."""
    import os
    import signal

    from trainer.callbacks.progress import Progress

    command = (f"model.path={tiny}", *DATA, *FAST)
    assert ask(*command, "output_dir=whole").code == 0
    usual = Progress.on_step_end

    def interrupted(self: Progress, step: int, total_steps: int) -> None:
        if step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        usual(self, step, total_steps)

    monkeypatch.setattr(Progress, "on_step_end", interrupted)
    answer = ask(*command, "output_dir=cut")
    assert answer.code == 143 and "SIGTERM" in answer.err and answer.err.count("\n") == 1
    assert Path("cut/checkpoint-7").is_dir()
    monkeypatch.undo()
    monkeypatch.chdir(table)
    assert ask(*command, "output_dir=cut").code == 0
    weights = [Path(run, "model/model.safetensors").read_bytes() for run in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_a_time_limit_saves_and_leaves(ask: Ask, tiny: Path, table: Path) -> None:
    command = (f"model.path={tiny}", *DATA, *FAST, "output_dir=short")
    answer = ask(*command, "trainer.time_limit=1e-6")
    assert answer.code == 143 and "time limit" in answer.err
    assert Path("short/checkpoint-1").is_dir()


def test_the_pipeline_answers_like_the_predict_job(trained: Path, ask: Ask) -> None:
    import trainer
    from trainer.errors import InputError

    model = str(trained / "model")
    texts = ["great lovely", "ugly sad cruel"]
    classify = trainer.pipeline("text-classification", model=model, precision="auto")
    jobs = predicted(ask("job=predict", f"model.path={model}", f"input.text={json.dumps(texts)}"))
    found = classify(texts)
    assert [row["label"] for row in found] == [row["label"] for row in jobs] == ["good", "bad"]
    assert [row["score"] for row in found] == pytest.approx([r["score"] for r in jobs], abs=1e-6)
    assert classify(texts[0]) == found[:1] and classify([]) == []
    with pytest.raises(InputError, match="did you mean 'text-classification'"):
        trainer.pipeline("text-clasification", model=model)


PROBLEMS: dict[str, tuple[list[Any], str, str]] = {
    "multi_label": ([["a"], ["b", "c"], []], "multi_label", "eval_f1_macro"),
    "regression": ([0.5, 2.0, 3.25], "regression", "eval_pearson"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_other_problems_from_end_to_end(problem: str, ask: Ask, tiny: Path, alone: None) -> None:
    labels, metrics, name = PROBLEMS[problem]
    rows = [{"text": "word " * (i + 1), "label": label} for i, label in enumerate(labels * 10)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = (f"model.path={tiny}", "dataset.path=rows.jsonl", "trainer.max_steps=2")
    if problem == "regression":  # the default metrics compare classes
        answer = ask(*data, "output_dir=wrong")
        assert answer.code == 2 and "accepted: metrics=regression" in answer.err
        assert not Path("wrong").exists()
    answer = ask(*data, f"metrics={metrics}", "output_dir=run")
    assert answer.code == 0, answer.err
    assert name in json.loads(Path("run/results.json").read_text())["metrics"]
    measured = ("job=evaluate", "model.path=run/model", f"metrics={metrics}")
    answer = ask(*measured, "dataset.path=rows.jsonl")
    assert answer.code == 0 and "30" in answer.out, answer.err
    found = predicted(ask("job=predict", "model.path=run/model", "input.file=rows.jsonl"))
    assert [row["label"] for row in found] == [row["label"] for row in rows]


def test_what_predict_and_evaluate_refuse(refused: Any, trained: Path) -> None:
    model = f"model.path={trained / 'model'}"
    Path("empty.csv").write_text("text,label\n")
    Path("other.csv").write_text("words\na\n")
    predict = ("job=predict", model)
    assert "no rows" in refused(*predict, "input.file=empty.csv", "output.file=e.jsonl")
    assert "no column 'text'; there are: words" in refused(*predict, "input.file=other.csv")
    assert "not UTF-8" in refused(*predict, "input.text=a\udcff")
    Path("latin.csv").write_bytes(b"text\n\xe9t\xe9\n")
    assert "dataset.test=FILE dataset.encoding=NAME" in refused(*predict, "input.file=latin.csv")
    Path("null.jsonl").write_text('{"text": "a"}\n\n{"text": null}\n')
    assert "input: null.jsonl:3: 'text' is null" in refused(*predict, "input.file=null.jsonl")
    assert "nothing given" in refused("job=evaluate", model)


def test_texts_longer_than_the_model_are_refused_at_once(
    refused: Any, tiny: Path, table: Path
) -> None:
    line = refused(f"model.path={tiny}", *DATA, "recipe.max_length=129")
    assert line == "recipe.max_length: found 129; accepted: at most 128, the model's maximum"


def test_all_rows_of_a_file_are_evaluated(trained: Path, ask: Ask) -> None:
    model = f"model.path={trained / 'model'}"
    answer = ask("job=evaluate", model, "dataset.path=train.jsonl", "output_dir=all")
    assert answer.code == 0, answer.err
    assert len(Path("all/evaluation-predictions.jsonl").read_text().splitlines()) == 96


def test_numbers_that_are_not_finite_end_every_job_with_exit_code_4(
    trained: Path, ask: Ask, tiny: Path, tmp_path: Path
) -> None:
    """No job reports an answer if a huge embedding makes the logits NaN."""
    model = AutoModelForSequenceClassification.from_pretrained(trained / "model")
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    (word,) = tokenizer("cruel", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.get_input_embeddings().weight[word] = 3e38
    model.save_pretrained(tmp_path / "bad")
    tokenizer.save_pretrained(tmp_path / "bad")
    (tmp_path / "bad" / "recipe.json").write_bytes((trained / "model/recipe.json").read_bytes())
    path = f"model.path={tmp_path / 'bad'}"
    answer = ask("job=predict", path, 'input.text=["a kind day", "a cruel day"]')
    assert answer.code == 4 and "input: 1 of 2 samples" in answer.err and "sample 1)" in answer.err
    target = tmp_path / "answers.jsonl"
    answer = ask("job=predict", path, "input.file=dev.jsonl", f"output.file={target}")
    assert answer.code == 4 and not target.exists()
    measured = tmp_path / "measured"
    answer = ask("job=evaluate", path, "dataset.validation=dev.jsonl", f"output_dir={measured}")
    assert answer.code == 4 and "samples have a loss or logits that are not finite" in answer.err
    found = json.loads((measured / "evaluation.json").read_text())["metrics"]
    assert found["eval_accuracy"] is None and found["eval_non_finite_samples"] > 0
    for line in (measured / "evaluation-predictions.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    run = tmp_path / "huge"
    answer = ask(
        f"model.path={tiny}", *DATA, "trainer.learning_rate=1e30", f"output_dir={run}",
        "trainer.num_epochs=1", "trainer.global_batch_size=96", "trainer.precision=fp32",
    )  # fmt: skip
    assert answer.code == 4 and "evaluation: 40 of 40 samples" in answer.err
    assert not (run / "model").exists()


def test_a_finished_run_on_other_data_is_not_called_complete(
    table: Path, ask: Ask, tiny: Path, caplog: Any
) -> None:
    """If a file's rows change, training rows are refused and evaluation rows are measured."""
    command = (f"model.path={tiny}", *DATA, "trainer.max_steps=2", "output_dir=run")
    assert ask(*command).code == 0
    assert "complete" in ask(*command).out
    lines = Path("dev.jsonl").read_text().splitlines(keepends=True)
    Path("dev.jsonl").write_text("".join(lines[:30]))
    answer = ask(*command)
    assert answer.code == 0 and "complete at" not in answer.out
    assert "other data: dataset.validation" in caplog.text
    results = json.loads(Path("run/results.json").read_text())
    assert sum(row["support"] for row in results["report"]["classes"]) == 30
    train = Path("train.jsonl").read_text()
    Path("train.jsonl").write_text(train.replace("day", "night", 1))
    answer = ask(*command)
    assert answer.code == 2 and "dataset: found 96 samples (" in answer.err
    Path("train.jsonl").unlink()
    answer = ask(*command)
    assert answer.code == 0 and "complete at" in answer.out
    assert "could not compare the current data" in caplog.text


def test_several_files_in_one_key(table: Path, ask: Ask, refused: Any, tiny: Path) -> None:
    """A list trains, resumes, evaluates and predicts; a changed file of it is noticed."""
    lines = Path("train.jsonl").read_text().splitlines(keepends=True)
    Path("more").mkdir()
    Path("one.jsonl").write_text("".join(lines[:40]))
    rows = map(json.loads, lines[40:])
    cells = "".join(f"{row['text']},{row['label']}\n" for row in rows)
    Path("more/two.csv").write_text(f"text,label\n{cells}")
    files = "dataset.train=[one.jsonl,more/]"
    command = (f"model.path={tiny}", files, DATA[1], "trainer.max_steps=2", "output_dir=run")
    assert ask(*command).code == 0
    assert "complete" in ask(*command).out
    whole = (f"model.path={tiny}", *DATA, "trainer.max_steps=2", "output_dir=whole")
    assert ask(*whole).code == 0
    weights = [Path(name, "model/model.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1]
    both, model = "[one.jsonl,more/two.csv]", "model.path=run/model"
    assert ask("job=evaluate", model, f"dataset.validation={both}", "output_dir=e").code == 0
    assert len(Path("e/evaluation-predictions.jsonl").read_text().splitlines()) == 96
    assert ask("job=predict", model, f"input.file={both}", "output.file=p.jsonl").code == 0
    assert len(Path("p.jsonl").read_text().splitlines()) == 96
    answer = ask("from=run", "trainer.max_steps=2", "output_dir=again")
    assert answer.code == 0, answer.err
    Path("more/two.csv").write_text(f"text,label\n{cells.replace('day', 'night', 1)}")
    answer = ask(*command)
    assert answer.code == 2 and "dataset: found 96 samples (" in answer.err
    Path("more/two.csv").write_text("text\nhello\n")
    found = refused(*command[:-1], "output_dir=other")
    assert found.startswith("dataset.train: more/two.csv has no column 'label', which one.jsonl")


def test_columns_of_pairs_are_read_where_the_rows_have_them(
    ask: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    """In training and for a model from another tool; a text pair has two segments."""
    rows = [
        {"text": f"a fine day {n}", "text_pair": f"bad {n}", "label": ["LABEL_0", "LABEL_1"][n % 2]}
        for n in range(24)
    ]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    foreign = tmp_path / "foreign"
    config = ModelConfig({**json.loads((tiny / "config.json").read_text()), "num_labels": 2})
    AutoModelForSequenceClassification.from_config(config).save_pretrained(foreign)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(foreign)
    shared = (f"model.path={foreign}", f"dataset.validation={pairs}")
    answer = ask("job=evaluate", *shared, f"output_dir={tmp_path / 'measured'}")
    assert answer.code == 0, answer.err
    answer = ask("job=predict", shared[0], f"input.file={pairs}")
    assert answer.code == 0 and len(answer.out.splitlines()) == 24, answer.err
    run = ("trainer.max_steps=1", f"dataset.train={pairs}", f"output_dir={tmp_path / 'run'}")
    answer = ask(*shared, *run)
    assert answer.code == 0, answer.err
    assert json.loads((tmp_path / "run/model/recipe.json").read_text())["fields"]["text_pair"]


def test_a_run_says_how_many_rows_are_cut(ask: Ask, table: Path, tiny: Path) -> None:
    answer = ask(f"model.path={tiny}", *DATA, "recipe.max_length=8", "trainer.max_steps=1")
    words = [
        len(json.loads(row)["text"].split()) for row in Path("train.jsonl").read_text().splitlines()
    ]
    cut = sum(number + 2 > 8 for number in words)
    assert f"cut to the maximum length: {cut} rows of train, " in answer.out and 0 < cut < 96
