"""Class weights together with label smoothing learn two classes of 98 and 2 rows."""

from pathlib import Path

import pytest
import torch

from recipes.sequence_classification import SequenceClassification
from trainer import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainSettings

ROWS = [
    {"text": f"common thing {i}", "label": "common"}
    if i % 50
    else {"text": "rare event", "label": "rare"}
    for i in range(100)
]


@pytest.mark.slow
def test_a_classifier_learns_a_rare_class(minilm: Path) -> None:
    torch.manual_seed(0)  # the head's weights do not depend on the tests before
    run = Trainer(
        AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=2),
        SequenceClassification(class_weights="balanced", max_length=8),
        TrainSettings(
            num_epochs=8,
            global_batch_size=20,
            learning_rate=3e-4,
            label_smoothing=0.1,
            precision="fp32",
        ),
        tokenizer=AutoTokenizer.from_pretrained(minilm),
        train_dataset=ROWS,
    )
    run.fit()
    found = run.predict(ROWS)
    assert (found["predictions"] == found["references"]).mean() == 1.0
