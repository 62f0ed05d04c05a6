"""Scores are `evaluate` modules that work offline and in memory, and are imported late."""

import os
import subprocess
import sys


def test_configs_import_nothing_heavy_and_computing_leaves_the_home_alone(tmp_path):
    script = """
import sys
import trainer.callbacks.early_stopping, trainer.callbacks.progress, trainer.metrics.hub
import trainer.metrics.classification, trainer.metrics.regression
heavy = {"torch", "datasets", "evaluate", "sklearn", "scipy", "rich"} & set(sys.modules)
assert not heavy, heavy
import numpy
metric = trainer.metrics.classification.Accuracy()
metric.prepare()
print(metric.compute(numpy.array([1, 0]), numpy.array([1, 1])))
from trainer.metrics.module import ScoreModule
import evaluate
assert issubclass(ScoreModule, evaluate.Metric)
"""
    home = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    home["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | home, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "{'accuracy': 0.5}\n"
    assert list(tmp_path.rglob("*")) == []


def test_evaluate_comes_without_transformers_and_leaves_it_importable() -> None:
    """The evaluators of `evaluate` would import transformers, which takes seconds."""
    code = (
        "import sys, trainer.metrics.module, evaluate\n"
        "assert 'transformers' not in sys.modules\n"
        "import transformers; transformers.BertConfig()\n"
        "assert evaluate.load and evaluate.combine"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
