"""Early stopping counts evaluations without a better metric, across a resume too."""

import json

import pytest

from trainer.callbacks.early_stopping import EarlyStopping
from trainer.errors import InputError


def _asked(callback, outcomes):
    """Whether the callback asks to stop after each evaluation."""
    asks = [callback.on_evaluate(n, {}, improved) for n, improved in enumerate(outcomes)]
    return [ask is not None and ask.stop for ask in asks]


def test_stops_after_patience_evaluations_in_a_row():
    outcomes = [True, False, True, False, False, False]
    assert _asked(EarlyStopping(3), outcomes) == [False, False, False, False, False, True]
    assert _asked(EarlyStopping(1), [True, False]) == [False, True]
    ask = EarlyStopping(1).on_evaluate(7, {}, improved=False)
    assert ask and ask.reason == "no better evaluation in 1 in a row"


def test_a_resumed_count_goes_on():
    before = EarlyStopping(3)
    assert _asked(before, [True, False, False]) == [False, False, False]
    after = EarlyStopping(3)
    after.load_state(json.loads(json.dumps(before.state())))
    assert _asked(after, [False]) == [True]


def test_a_count_starts_anew_for_another_metric():
    before = EarlyStopping(3, 0.5, "eval_loss")
    before.on_evaluate(1, {"eval_loss": 2.0}, improved=True)
    before.on_evaluate(2, {"eval_loss": 2.0}, improved=False)
    state = json.loads(json.dumps(before.state()))
    assert state == {"evaluations_waited": 1, "best": 2.0, "metric": "eval_loss"}
    earlier = {name: value for name, value in state.items() if name != "metric"}
    for saved, metric, is_kept in (
        (state, "eval_loss", True),
        (earlier, "eval_loss", True),
        (state, "", True),  # it counts the run's evaluations, whichever metric they have
        (state, "eval_accuracy", False),
    ):
        after = EarlyStopping(3, 0.5 if metric else 0.0, metric)
        after.load_state(saved)
        assert after.state()["evaluations_waited"] == (1 if is_kept else 0)
        assert after.state().get("best") == (2.0 if is_kept else None)


def test_a_patience_below_1_is_refused():
    with pytest.raises(InputError, match="found patience 0; accepted: 1 or more"):
        EarlyStopping(0)
