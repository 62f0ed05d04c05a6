"""Models of transformers and PEFT: training with their own loss, resuming, and saving."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.sequence_classification import SequenceClassification
from tests.unit.test_trainer import KillAt, Killed
from trainer.checkpoint.verify import verify
from trainer.metrics.functions import EvalPrediction
from trainer.models.auto import AutoModelForSequenceClassification
from trainer.models.config import ModelConfig
from trainer.settings import TrainSettings
from trainer.trainer import Trainer

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
LORA = {"r": 4, "target_modules": ["query", "value"], "modules_to_save": ["classifier"]}


def bert(**changed: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES, num_labels=3, **changed)
    return transformers.BertForSequenceClassification(config)


def lora(**changed: Any) -> Any:
    return peft.get_peft_model(bert(**changed), peft.LoraConfig(task_type="SEQ_CLS", **LORA))


def our_lora(**changed: Any) -> Any:
    torch.manual_seed(0)
    config = ModelConfig({"model_type": "bert", **SIZES, "num_labels": 3, **changed})
    ours = AutoModelForSequenceClassification.from_config(config)
    return peft.get_peft_model(ours, peft.LoraConfig(**LORA))


def llama(**changed: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=1)
    return transformers.LlamaForCausalLM(config)


def encoded(number: int = 20) -> list[dict[str, Any]]:
    """Rows of 2 to 9 ids."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(3, 50, 2 + n % 8).tolist() for n in range(number)]
    return [{"input_ids": each, "labels": sum(each) % 3} for each in ids]


def texts(number: int = 20) -> list[dict[str, Any]]:
    """The same with a label for each token; the first one of some rows is not trained on."""
    rows = encoded(number)
    return [
        {**row, "labels": [-100 if n % 3 else row["input_ids"][0], *row["input_ids"][1:]]}
        for n, row in enumerate(rows)
    ]


KINDS = {"bert": (bert, encoded), "lora": (lora, encoded), "our lora": (our_lora, encoded),
         "llama": (llama, texts)}  # fmt: skip
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def trainer(kind: str, folder: Path | None = None, double: bool = False, **given: Any) -> Trainer:
    build, rows = KINDS[kind]
    model = build(**(STILL if double else {}))
    values: dict[str, Any] = {
        "global_batch_size": 8, "num_epochs": 2, "learning_rate": 0.05, "precision": "fp32",
        "optimizer": "sgd", "save_steps": 2, "logging_steps": 1, "weight_decay": 0.0,
    }  # fmt: skip
    settings = TrainSettings(**{**values, **given.pop("settings", {})})
    model = model.double() if double else model
    return Trainer(model, settings=settings, train_dataset=rows(), output_dir=folder, **given)


def trained(run: Trainer) -> torch.Tensor:
    parameters = [p for p in run.model.parameters() if p.requires_grad]
    return torch.nn.utils.parameters_to_vector(parameters).detach()


@pytest.mark.parametrize("kind", KINDS)
def test_any_split_gives_one_result(kind: str) -> None:
    """The model's own mean is converted to a sum, for any number of labels in a micro batch.

    transformers' Llama computes norms, rotations and the loss in fp32 for all dtypes.
    """
    close = 1e-6 if kind == "llama" else 1e-12
    runs = [trainer(kind, double=True, settings={"micro_batch_size": n}) for n in (None, 1, 3)]
    losses = [run.fit()["train_loss"] for run in runs]
    whole, *others = map(trained, runs)
    assert not torch.equal(whole, trained(trainer(kind, double=True)))
    for loss, other in zip(losses[1:], others, strict=True):
        assert abs(loss - losses[0]) <= close * losses[0]
        assert (other - whole).norm() <= close * whole.norm()


def test_it_is_what_transformers_trains_to(tmp_path: Path) -> None:
    """With one batch per step, transformers' Trainer takes the mean over the whole batch."""
    arguments = transformers.TrainingArguments(
        str(tmp_path), per_device_train_batch_size=20, max_steps=4, learning_rate=0.05, optim="sgd",
        lr_scheduler_type="constant", report_to=[], use_cpu=True, save_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    theirs = bert(**STILL).double()
    collator = transformers.DataCollatorWithPadding(_Padder())
    transformers.Trainer(theirs, arguments, train_dataset=encoded(), data_collator=collator).train()
    ours = trainer(
        "bert", double=True,
        settings={"global_batch_size": 20, "max_steps": 4, "lr_scheduler": "constant"},
    )  # fmt: skip
    ours.train()
    expected = torch.nn.utils.parameters_to_vector(theirs.parameters()).detach()
    assert (trained(ours) - expected).norm() <= 1e-9 * expected.norm()


class _Padder:
    """The interface of a tokenizer for DataCollatorWithPadding."""

    deprecation_warnings: dict[str, bool] = {}

    def pad(self, features: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
        from trainer.data.collators import PaddingCollator

        return PaddingCollator()([dict(row) for row in features])


def test_our_models_come_to_the_same_weights_under_both_trainers(tmp_path: Path) -> None:
    arguments = transformers.TrainingArguments(
        str(tmp_path), per_device_train_batch_size=20, max_steps=4, learning_rate=0.05, optim="sgd",
        lr_scheduler_type="constant", report_to=[], use_cpu=True, save_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    config = ModelConfig({"model_type": "bert", **SIZES, "num_labels": 3, **STILL})
    start = AutoModelForSequenceClassification.from_config(config).double()
    theirs, ours = copy.deepcopy(start), copy.deepcopy(start)
    collator = transformers.DataCollatorWithPadding(_Padder())
    transformers.Trainer(theirs, arguments, train_dataset=encoded(), data_collator=collator).train()
    settings = TrainSettings(
        global_batch_size=20, max_steps=4, learning_rate=0.05, lr_scheduler="constant",
        optimizer="sgd", warmup_steps=0, weight_decay=0.0, precision="fp32",
    )  # fmt: skip
    Trainer(ours, SequenceClassification(), settings, train_dataset=encoded()).fit()
    before, expected, found = (
        torch.nn.utils.parameters_to_vector(each.parameters()).detach()
        for each in (start, theirs, ours)
    )
    assert (expected - before).norm() > 1e-3 * expected.norm()
    assert (found - expected).norm() <= 1e-9 * expected.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_equals_never_stopped_and_folders_reload(kind: str, tmp_path: Path) -> None:
    whole = trainer(kind, tmp_path / "whole")
    whole.fit()
    for saves in ("auto", False):
        cut = trainer(kind, tmp_path / f"cut-{saves}", settings={"async_save": saves})
        cut.callbacks.append(KillAt(5))
        with pytest.raises(Killed):
            cut.fit()
        again = trainer(kind, tmp_path / f"cut-{saves}", settings={"async_save": saves})
        again.fit()
        assert torch.equal(trained(again), trained(whole))
        verify(tmp_path / f"cut-{saves}" / "model")
    model = tmp_path / "whole" / "model"
    if "lora" in kind:
        assert not (model / "model.safetensors").exists()
        build = our_lora if kind == "our lora" else lora
        reloaded = peft.PeftModel.from_pretrained(build().get_base_model(), str(model))
    else:
        reloaded = type(whole.model).from_pretrained(model)
    rows = KINDS[kind][1]()[:1]
    ids = torch.tensor([rows[0]["input_ids"]])
    with torch.no_grad():
        assert torch.equal(
            reloaded.eval()(input_ids=ids).logits, whole.model.eval()(input_ids=ids).logits
        )


def test_metrics_of_logits(tmp_path: Path) -> None:
    seen: list[EvalPrediction] = []

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        logits, labels = prediction
        return {"eval_share": (logits.argmax(-1) == labels).mean()}

    run = trainer(
        "bert", eval_dataset=encoded(), compute_metrics=compute, metrics={"own": "accuracy"},
        settings={"max_steps": 1},
    )  # fmt: skip
    found = run.evaluate()
    assert found["eval_accuracy"] == found["eval_share"]
    assert seen[0].predictions.shape == (20, 3)
    assert seen[0].label_ids.tolist() == [row["labels"] for row in encoded()]
