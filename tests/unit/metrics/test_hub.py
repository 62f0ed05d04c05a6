"""A metric with code of its own runs only if it is trusted."""

import numpy as np
import pytest

from trainer.errors import InputError
from trainer.metrics.hub import HubMetric

SCRIPT = """
import datasets
import evaluate

class Distance(evaluate.Metric):
    def _info(self):
        value = datasets.Value("float64")
        features = datasets.Features({"predictions": value, "references": value})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references, power=1):
        differences = [abs(p - r) ** power for p, r in zip(predictions, references)]
        return {"distance": sum(differences), "worst": max(differences), "each": differences}
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    import evaluate

    for cache in ("HF_METRICS_CACHE", "HF_MODULES_CACHE", "HF_EVALUATE_CACHE"):
        monkeypatch.setattr(evaluate.config, cache, str(tmp_path / cache))
    monkeypatch.syspath_prepend(str(tmp_path / "HF_MODULES_CACHE"))
    folder = tmp_path / "distance"
    folder.mkdir()
    (folder / "distance.py").write_text(SCRIPT)
    return str(folder)


def test_untrusted_code_is_refused_when_the_metric_is_made():
    with pytest.raises(InputError, match="'rouge' of the hub runs code .* trust_remote_code: true"):
        HubMetric("rouge", greater_is_better=True)


def test_a_trusted_metric_gives_the_results_that_are_kept(script):
    metric = HubMetric(
        script,
        greater_is_better=False,
        results=["worst", "distance"],
        trust_remote_code=True,
        arguments={"power": 2},
    )
    metric.prepare()
    found = metric.compute(np.array([1.0, 2.0]), np.array([1.0, 5.0]))
    assert found == {"worst": 9.0, "distance": 9.0}
    alone = HubMetric(script, greater_is_better=False, trust_remote_code=True)
    assert alone.compute(np.array([1.0, 2.0]), np.array([0.0, 5.0])) == {"distance": 4.0}


def test_a_result_that_it_does_not_give_is_refused(script):
    metric = HubMetric(script, True, results=["best"], trust_remote_code=True)
    with pytest.raises(
        InputError, match="gives no 'best'; accepted in results: distance, worst, each"
    ):
        metric.compute(np.array([1.0]), np.array([1.0]))


def test_a_result_that_is_no_number_is_refused(script):
    metric = HubMetric(script, True, results=["each"], trust_remote_code=True)
    with pytest.raises(InputError, match="distance': returned 'each' as list; accepted: a dict of"):
        metric.compute(np.array([1.0, 2.0]), np.array([1.0, 1.0]))


def test_what_cannot_be_loaded_is_one_line(tmp_path):
    metric = HubMetric(str(tmp_path / "none"), greater_is_better=True, trust_remote_code=True)
    with pytest.raises(InputError, match="none' cannot be loaded: .*") as refusal:
        metric.prepare()
    assert "\n" not in str(refusal.value)
