"""Models whose code is in their folder: it runs only if the user says so, and is pinned."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.interop.foreign import save_foreign
from tests.jobs.conftest import DATA, FAST
from trainer import AutoTokenizer

transformers = pytest.importorskip("transformers")

CODE = """
from pathlib import Path
from transformers import OPTConfig, OPTForCausalLM

Path("ran").touch()

class MineConfig(OPTConfig):
    model_type = "mine"

class Mine(OPTForCausalLM):
    config_class = MineConfig
"""
TYPED = "model.trust_remote_code=true"
MAP = {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.Mine"}


@pytest.fixture
def own(tmp_path: Path, minilm: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A decoder of the type `mine`; transformers copies its code to the test's folder."""
    from transformers import dynamic_module_utils

    modules = tmp_path / "modules"
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(modules))
    monkeypatch.syspath_prepend(str(modules))
    folder = save_foreign("opt", tmp_path / "own")
    AutoTokenizer.from_pretrained(minilm).save_pretrained(folder)
    (folder / "mine.py").write_text(CODE)
    write(folder, auto_map=MAP)
    return folder


def write(folder: Path, **changes: Any) -> None:
    """Change entries of a folder's config.json."""
    entries = json.loads((folder / "config.json").read_text())
    entries |= {"model_type": "mine", "architectures": ["Mine"], **changes}
    (folder / "config.json").write_text(json.dumps(entries))


@pytest.mark.slow
def test_it_runs_only_if_it_is_typed(ask: Callable[..., Any], own: Path) -> None:
    arguments = (f"model.path={own}", "recipe=causal_lm", "recipe.max_length=16", *DATA, *FAST)
    arguments = (*arguments, "trainer.max_steps=2", "output_dir=run", "trainer.precision=fp32")
    refused = ask(*arguments)
    assert refused.code == 2 and TYPED in refused.err and not Path("ran").exists()
    trained = ask(*arguments, TYPED)
    assert trained.code == 0, trained.err
    assert Path("ran").exists() and Path("run/model/mine.py").is_file()
    assert f"{TYPED} from=run job=evaluate" in trained.out + trained.err
    refused = ask("from=run", "output_dir=again")
    assert refused.code == 2 and "which this file may not decide" in refused.err
    refused = ask("from=run", "job=evaluate", "output_dir=e")
    assert refused.code == 2 and TYPED in refused.err
    evaluated = ask("from=run", "job=evaluate", "output_dir=e", TYPED)
    assert evaluated.code == 0, evaluated.err
    written = ask("job=generate", "model.path=run/model", "input.prompt=a", TYPED)
    assert written.code == 0, written.err


def test_what_is_not_pinned_or_not_there_is_refused(ask: Callable[..., Any], own: Path) -> None:
    others = {
        "elsewhere": {**MAP, "AutoModelForCausalLM": "someone/other--mine.Mine"},
        "missing": {**MAP, "AutoModelForCausalLM": "yours.Mine"},
        "without a config": {"AutoModelForCausalLM": "mine.Mine"},
        "without the head": {"AutoConfig": "mine.MineConfig"},
    }
    for name, auto_map in others.items():
        shutil.copytree(own, own.parent / name)
        write(own.parent / name, auto_map=auto_map)
    base = own.parent
    cases = {
        ("model.path=someone/model",): "accepted: a commit of 40 hex digits as model.revision",
        ("model.path=someone/model", "model.revision=main"): "accepted: a commit of 40 hex digits",
        (f"model.path={base / 'elsewhere'}",): "'someone/other--mine.Mine'; accepted: FILE.CLASS",
        (f"model.path={base / 'missing'}",): "there is no yours.py next to it",
        (f"model.path={base / 'without a config'}",): "accepted: a class for AutoConfig",
        ("model=minilm",): "found true, and this package computes the model; accepted: false",
    }
    for arguments, wanted in cases.items():
        answer = ask(*arguments, TYPED, "recipe=causal_lm", *DATA, "output_dir=x")
        assert answer.code == 2 and wanted in answer.err, (arguments, answer.err)
    assert not Path("ran").exists()
    answer = ask(f"model.path={base / 'without the head'}", TYPED, "recipe=causal_lm", *DATA)
    assert answer.code == 2 and "AutoModelForCausalLM" in answer.err, answer.err
