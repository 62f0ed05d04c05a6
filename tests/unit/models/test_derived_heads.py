"""A class derived from a model's class, as sharding creates it, is the same head."""

import pytest

from trainer.models.auto import TASKS


@pytest.mark.parametrize("task", TASKS)
def test_a_derived_class_has_the_call_of_its_head(task: str) -> None:
    head = TASKS[task]
    assert type("Derived", (head,), {}).forward is head.forward
