"""Multi-task: the loss is the weighted sum of the tasks' means, and each task has its own model."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recipes.causal_lm import CausalLM
from recipes.masked_lm import MaskedLM
from recipes.multi_task import MultiTask
from recipes.sequence_classification import SequenceClassification
from recipes.token_classification import TokenClassification
from tests.unit.text_runs import CASES, CLASSES, TAGS
from trainer.data.in_memory_rows import as_table
from trainer.data.task_batch import TaskBatch
from trainer.data.task_samples import TaskSamples
from trainer.devices.ranks import Ranks
from trainer.errors import InputError
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.runs.saving import shipped_parameters, write_model
from trainer.tasks.agreement import learn
from trainer.tasks.columns import Column
from trainer.tasks.recipe import Recipe
from trainer.training.step import Stepper

CASE = CASES["tasks, bert"]
KIND, TAG = SequenceClassification(**CLASSES), TokenClassification(**{**TAGS, "text": "words"})
TWO = [
    {"task": "kind", "text": "hello world", "label": "a"},
    {"task": "tags", "words": ["hello", "world"], "tags": ["O", "B-x"]},
    {"task": "kind", "text": "of course", "label": "b"},
]


def test_a_step_descends_the_weighted_sum_of_the_means_of_the_tasks() -> None:
    """In float64, without dropout: against each task's ordinary model on all of its samples."""
    trainer = CASE.trainer(evaluated=False, learning_rate=1.0)
    model, samples, recipe = trainer.model.eval(), trainer.train_samples, trainer.recipe
    assert isinstance(samples, TaskSamples) and isinstance(recipe, MultiTask)
    samples = samples.planned(_Whole(len(samples)))
    total = torch.zeros((), dtype=torch.float64)
    for name, own in recipe.tasks.items():
        table = samples.tables[name]
        batch = table.collate(range(len(table)), 0, 0)
        sums, counts = own.loss(model.part(name)(**batch.inputs()), batch)
        total = total + recipe.weights[name] * sums.sum() / counts.sum()
    wanted = flat(torch.autograd.grad(total, list(model.parameters()), allow_unused=True), model)
    for number in (1, 4, 7):
        stepper = Stepper(
            _Evaluated(model),
            recipe,
            torch.optim.SGD(model.parameters(), lr=1.0),
            ranks=Ranks(),
            global_batch_size=len(samples),
        )
        before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        parts = np.array_split(np.arange(len(samples)), number)
        batches = [(samples.collate(part, 0, 0).for_step(0, 0), True) for part in parts]
        batches = [(without_dropout(batch), counted) for batch, counted in batches]
        facts = stepper.step(batches, number, 1.0)
        after = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
        assert facts.loss == pytest.approx(total.item(), rel=1e-12)
        assert ((before - after) - wanted).norm() <= 1e-12 * wanted.norm()
        torch.nn.utils.vector_to_parameters(before, model.parameters())


class _Whole:
    """A plan of one step with all samples."""

    def __init__(self, size: int) -> None:
        self.size = size

    def global_batch(self, step: int) -> np.ndarray:
        return np.arange(self.size)


class _Evaluated(torch.nn.Module):
    """A model that stays in eval mode."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model

    def train(self, mode: bool = True) -> "_Evaluated":
        return self

    def forward(self, **inputs: Any) -> Any:
        return self.inner(**inputs)


def without_dropout(batch: TaskBatch) -> TaskBatch:
    batch.dropout_keys = None
    return batch


def flat(gradients: Any, model: Any) -> torch.Tensor:
    pairs = zip(gradients, model.parameters(), strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


COUNTED = [name for name, case in CASES.items() if type(case.recipe).counts is not Recipe.counts]


@pytest.mark.parametrize("name", COUNTED)
def test_counts_before_a_forward_pass_are_those_of_the_loss(name: str) -> None:
    case = CASES[name]
    trainer = case.trainer(evaluated=False)
    batch = trainer.train_samples.collate(range(7), 0, 0)
    found = trainer.recipe.counts(batch)
    _, counts = trainer.recipe.loss(trainer.model(**batch.inputs()), batch)
    assert float(found.sum()) == pytest.approx(float(counts.sum()), rel=1e-12)


def test_a_model_s_folder_predicts_and_exports_every_task(tmp_path: Path) -> None:
    from trainer.data.task_rows import rows_by_task
    from trainer.models.auto import TASKS
    from trainer.trainer import Trainer

    recipe = dataclasses.replace(CASE.recipe, export=True)
    trainer = dataclasses.replace(CASE, recipe=recipe).trainer(tmp_path)
    trainer.fit()
    rows = [row for row in CASE.rows if row["task"] != "tags"] + [CASE.rows[1]]
    answers = trainer.answers(rows)
    assert [answer["task"] for answer in answers] == [row["task"] for row in rows]
    table = as_table(rows)
    folder = tmp_path / "model" / "tasks"
    for name, numbers in rows_by_task(table, "task", list(recipe.tasks)).items():
        task = trainer.recipe.tasks[name]
        model = TASKS[task.head.task].from_pretrained(folder / name).double()
        alone = Trainer(model, task, {"precision": "fp32"}, tokenizer=CASE.tokenizer)
        found = alone.answers([rows[number] for number in numbers])
        for number, answer in zip(numbers.tolist(), found, strict=True):
            assert nearly({k: v for k, v in answers[number].items() if k != "task"}, answer)
    saved = json.loads((folder / "kind" / "recipe.json").read_text())
    assert saved["recipe"] == "sequence_classification"


def test_a_sharded_model_with_adapters_exports_whole_tasks(tmp_path: Path) -> None:
    """Rank 0 gathers the weights that are written: with the tasks' own models, these are all."""
    recipe = dataclasses.replace(CASE.recipe, export=True)
    trainer = dataclasses.replace(CASE, recipe=recipe).trainer(evaluated=False)
    model = trainer.model
    model.add_lora(LoRASettings(rank=2))
    names = shipped_parameters(model, recipe)
    only_adapters = shipped_parameters(model, dataclasses.replace(recipe, export=False))
    table = "body.embeddings.token.weight"
    assert only_adapters is not None and table not in only_adapters
    gathered = {n: p.detach() for n, p in model.named_parameters() if names is None or n in names}
    assert table in gathered
    for folder, weights in (("own", None), ("gathered", gathered)):
        write_model(tmp_path / folder, model, trainer.tokenizer, recipe, weights, shipped=True)
    for file in (
        "adapter_model.safetensors",
        *(f"tasks/{n}/model.safetensors" for n in recipe.tasks),
    ):
        own, found = (load_file(tmp_path / folder / file) for folder in ("own", "gathered"))
        assert found.keys() == own.keys()
        assert all(torch.equal(found[name], own[name]) for name in own)


def nearly(found: Any, wanted: Any) -> bool:
    """Equal except for the last digits of floats, which the folder stores in fp32."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(nearly(found[k], wanted[k]) for k in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(nearly, found, wanted))
    return found == (pytest.approx(wanted, abs=1e-5) if isinstance(wanted, float) else wanted)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "not a recipe": ({"tasks": {"a": {}}}, "recipe.tasks.a: found dict; accepted: recipes such as"),
    "a name": ({"tasks": {"a.b": KIND}}, "recipe.tasks: found the name 'a.b'; accepted: letters"),
    "case": ({"tasks": {"a": KIND, "A": TAG}}, "recipe.tasks: a and A differ only in case"),
    "writes": (
        {"tasks": {"a": CausalLM()}},
        "recipe.tasks.a: CausalLM writes texts in evaluations, or moves embeddings; accepted: ",
    ),
    "masks": ({"tasks": {"a": MaskedLM()}}, "recipe.tasks.a: MaskedLM does not count its answers"),
    "weight of none": (
        {"tasks": {"kind": KIND}, "weights": {"kinds": 1.0}},
        "recipe.weights: no task 'kinds'; accepted: kind; did you mean 'kind'?",
    ),
    "weight": (
        {"tasks": {"kind": KIND}, "weights": {"kind": -1.0}},
        "recipe.weights.kind: found -1.0; accepted: 0 or more",
    ),
    "all 0": ({"tasks": {"kind": KIND}, "weights": {"kind": 0.0}}, "recipe.weights: all are 0"),
    "metric of none": ({"tasks": {"kind": KIND}, "metrics": {"x": ["f1"]}}, "recipe.metrics: no"),
    "asked": ({"tasks": {"kind": KIND}, "task": "kin"}, "recipe.task: found 'kin'; accepted: kind"),
}


@pytest.mark.parametrize("name", WRONG)
def test_options_that_make_no_model_are_refused(name: str) -> None:
    options, message = WRONG[name]
    with pytest.raises(InputError) as caught:
        MultiTask(**options)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


ROWS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "unknown task": (
        [*TWO, {"task": "kinds", "text": "x"}],
        {},
        "dataset.train row 3: 'task' is 'kinds'; accepted: kind, tags; did you mean 'kind'?",
    ),
    "no column": (
        [{"text": "x", "label": "a"}],
        {},
        "recipe.task_column: no column 'task'; there are: text, label; accepted: a column with",
    ),
    "no rows": (
        TWO[:1],
        {},
        "recipe.tasks.tags: no training row has this task; accepted: some with task=tags",
    ),
    "no tasks": (TWO, {"tasks": {}}, "recipe.tasks: found none; accepted: {NAME: {recipe: "),
    "an option": (
        TWO,
        {"tasks": {"kind": SequenceClassification(label="stars"), "tags": TAG}},
        "recipe.tasks.kind.label: ",
    ),
    "a metric": (
        TWO,
        {"metrics": {"tags": ["pearson"]}},
        "recipe.metrics.tags: pearson compares numbers; TokenClassification gives spans",
    ),
    "colliding results": (
        [*TWO, {"task": "kind_tag", "text": "x", "label": "a"}],
        {"tasks": {"kind": KIND, "tags": TAG, "kind_tag": KIND}, "metrics": {"kind": ["f1"]}},
        "",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_fit_no_task_are_refused(name: str) -> None:
    rows, options, message = ROWS[name]
    recipe = MultiTask(**{"tasks": {"kind": KIND, "tags": TAG}, **options})
    if not message:
        learn(recipe, as_table(rows))
        return
    with pytest.raises(InputError) as caught:
        learn(recipe, as_table(rows, "dataset.train"))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_only_results_of_absent_tasks_are_nan() -> None:
    """The name of one task may begin with that of another one."""
    recipe = MultiTask(tasks={"ner": TAG, "ner_fine": TAG, "kind": KIND})
    found = recipe.measure(0.0, {"task": Column(np.array([1, 1]))})
    absent = {f"{name}_{result}" for name in ("ner", "kind") for result in ("samples", "loss")}
    assert absent <= set(found) and all(map(math.isnan, found.values()))
    assert not set(found) & set(recipe.task_set.measures_of("ner_fine"))


def test_a_recipe_without_tasks_reads_no_rows() -> None:
    """As an evaluation set's or a source's own recipe, which does not learn from rows."""
    with pytest.raises(InputError, match=r"^recipe.tasks: found none; accepted: \{NAME"):
        MultiTask(task="kind")
    context: Any = None
    with pytest.raises(InputError, match=r"^recipe.tasks: found none; accepted: \{NAME"):
        MultiTask().samples(as_table(TWO), None, context)
