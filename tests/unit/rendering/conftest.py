"""The facts of one run, for all tests of rendering."""

from pathlib import Path

import pytest

from trainer.callbacks.callback import RunFacts


@pytest.fixture
def facts():
    return RunFacts(
        output_dir=Path("runs/a"),
        model_name="bert",
        model_path="pkg://package/model",
        num_parameters=22_713_216,
        num_trainable_parameters=22_713_216,
        num_train_samples=1280,
        num_train_tokens=1_203_441,
        num_eval_samples={"": 745},
        total_steps=120,
        steps_per_epoch=40,
        first_step=0,
        global_batch_size=32,
        num_processes=1,
        device="cpu",
        precision="bf16",
        padding_avoided=0.468,
    )
