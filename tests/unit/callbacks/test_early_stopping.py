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


def test_a_patience_below_1_is_refused():
    with pytest.raises(InputError, match="found patience 0; accepted: 1 or more"):
        EarlyStopping(0)
