"""How often a job reads each tensor of a model's files."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.unit.models.test_lazy_values import DECODER
from trainer.jobs.parts.model import load_model
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.auto import TASKS, AutoConfig
from trainer.models.formats.weight_files import WeightFiles
from trainer.runs.run import ModelSettings
from trainer.tasks.recipe import Head


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    model = TASKS["causal_lm"].from_config(AutoConfig(DECODER))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("strategy", "ranks"), [("auto", 1), ("ddp", 1), ("auto", 2)])
@pytest.mark.parametrize("adapts", [False, True], ids=["plain", "adapters"])
def test_a_process_reads_each_tensor_once_unless_it_may_shard_the_model(
    base: Path, adapts: bool, strategy: str, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    reads: Counter[str] = Counter()
    read = WeightFiles.read

    def counted(files: WeightFiles, name: str) -> torch.Tensor:
        reads[name] += 1
        return read(files, name)

    monkeypatch.setattr(WeightFiles, "read", counted)
    lora = LoRASettings(rank=2 if adapts else None)
    settings = ModelSettings(path=str(base), lora=lora)
    model = load_model(settings, Head("causal_lm"), seed=0, strategy=strategy)
    later = ranks > 1
    assert any(parameter.is_meta for parameter in model.parameters()) == later
    model.fill(model)
    assert len(reads) == 3 + 2 * 9
    adapted = {name for name, number in reads.items() if number == 2}
    assert max(reads.values()) == 1 + (later and adapts)
    assert len(adapted) == (2 * 7 if later and adapts else 0)
