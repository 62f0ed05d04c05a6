"""Preference losses and gradients equal those of trl's trainers, recorded by record_trl.py."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from recipes.preference import Preference
from recipes.unpaired_preference import UnpairedPreference
from tests.parity.record_trl import (
    FIXTURE,
    KINDS,
    PAIRS,
    REFERENCE,
    SINGLES,
    hub_model,
    summary,
    tokenizer,
)
from trainer.data.in_memory_rows import as_table
from trainer.data.preprocessing import samples_of
from trainer.devices.ranks import Ranks
from trainer.models.auto import AutoModelForCausalLM
from trainer.tokenizer import Tokenizer
from trainer.training.derived import StartingWeights

RECORDED = json.loads(FIXTURE.read_text(encoding="utf-8"))["kinds"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the policy and of the reference, with the tokenizer."""
    found = {}
    for name, phase in (("policy", 0.0), ("reference", REFERENCE)):
        found[name] = tmp_path_factory.mktemp(name)
        hub_model(phase).save_pretrained(found[name])
    tokenizer().save_pretrained(found["policy"])
    return found


def recipe_of(kind: str, options: dict[str, Any]) -> Any:
    name = kind.split(",")[0]
    if name == "kto":
        return UnpairedPreference(chat=False, kl_group=len(SINGLES), **options)
    return Preference(objective=name, chat=False, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_trls(kind: str, models: dict[str, Path], tmp_path: Path) -> None:
    recipe = recipe_of(kind, KINDS[kind])
    rows = as_table(SINGLES if kind == "kto" else PAIRS, "rows")
    found = Tokenizer.from_pretrained(models["policy"])
    samples = samples_of(rows, recipe, found, where="rows")
    reference = AutoModelForCausalLM.from_pretrained(models["reference"]).double()
    start = StartingWeights(reference, recipe, ranks=Ranks(), precision="fp32", cache_dir=None)
    batch = start.derive(samples, "rows", 1000).collate(range(len(samples)))
    model = AutoModelForCausalLM.from_pretrained(models["policy"]).double()
    loss, count = (part.sum() for part in recipe.loss(model(**batch.inputs()), batch))
    (loss / count).backward()
    recorded = RECORDED[kind]
    assert (loss / count).item() == pytest.approx(recorded["loss"], rel=1e-6)
    ours = summary(hub_gradients(model, tmp_path))
    assert ours.keys() == recorded["gradients"].keys()
    whole = sum(norm**2 for norm, _ in recorded["gradients"].values()) ** 0.5
    for name, wanted in recorded["gradients"].items():
        assert ours[name] == pytest.approx(wanted, rel=1e-6, abs=1e-6 * whole), name


def hub_gradients(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """The gradients by the hub's parameter names, as in a saved model."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.grad)
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")
