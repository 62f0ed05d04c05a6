"""recipe.json: written and read back; without it, only a named task is accepted."""

import json
from pathlib import Path

import pytest

from recipes.sequence_classification import SequenceClassification
from trainer.errors import InputError
from trainer.tasks.plain_recipes import LossOnly
from trainer.tasks.recipe_file import FILE, read_fields, read_node, write_recipe

TARGET = "recipes.sequence_classification.SequenceClassification"


def test_a_recipe_is_read_as_it_was_written(tmp_path: Path) -> None:
    recipe = SequenceClassification(text="a", problem="single_label", labels=["x", "y"])
    write_recipe(tmp_path, recipe)
    assert json.loads((tmp_path / FILE).read_text())["recipe"] == "sequence_classification"
    node = read_node(tmp_path)
    assert node.pop("_target_") == TARGET
    assert node == read_fields(tmp_path) and SequenceClassification(**node) == recipe


def test_a_plain_loss_leaves_no_file(tmp_path: Path) -> None:
    write_recipe(tmp_path, LossOnly(lambda outputs, batch: (outputs, batch)))
    assert not list(tmp_path.iterdir()) and read_fields(tmp_path) == {}


def test_a_model_of_others_names_its_task_in_its_architecture(tmp_path: Path) -> None:
    entries = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "x", "1": "y"}}
    (tmp_path / "config.json").write_text(json.dumps(entries))
    node = read_node(tmp_path)
    assert node["_target_"] == TARGET and node["labels"] == ["x", "y"]


def test_the_folder_of_a_run_is_answered_with_its_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=f"did you mean {tmp_path}/model"):
        read_node(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (FILE, '{"recipe": 3, "fields": {}}', "found no recipe; accepted: "),
        (FILE, "[]", "not a JSON object"),
        (FILE, "{", "not readable as JSON"),
        (FILE, '{"recipe": "no_such_task", "fields": {}}', "no_such_task"),
        ("config.json", '{"architectures": ["BertModel"]}', "names no task .BertModel."),
        ("other.json", "{}", "config.json: there is no such file"),
    ],
)
def test_anything_else_is_refused_in_one_line(
    tmp_path: Path, file: str, text: str, said: str
) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        read_node(tmp_path)
    assert "\n" not in str(caught.value)
