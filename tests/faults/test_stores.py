"""A store that fails at any call, and a process that dies at any call: no checkpoint is lost."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec import AbstractFileSystem

from trainer.checkpoint import files
from trainer.checkpoint.verify import CorruptCheckpoint, verify
from trainer.devices.ranks import Ranks
from trainer.errors import EnvironmentFault
from trainer.runs.folder import RunFolder
from trainer.stores import inputs, lease, published, run_store, store, url

URL = "disk://bucket/runs/a"
CRASHED = 77


class DiskStore(AbstractFileSystem):
    """A store of objects, kept in a folder so that it outlives processes.

    Objects appear whole, as in S3. `hook` is called before and after each call.
    """

    protocol = "disk"
    cachable = False
    root: Path
    hook: Callable[[str], None] | None = None

    def _at(self, path: str) -> Path:
        return self.root / self._strip_protocol(path).strip("/")

    def _call(self, work: Callable[[], Any]) -> Any:
        self._tell("before")
        result = work()
        self._tell("after")
        return result

    def _tell(self, moment: str) -> None:
        if DiskStore.hook is not None:
            DiskStore.hook(moment)

    def _put(self, path: str, content: bytes) -> None:
        staged = self.root / ".staged"
        staged.write_bytes(content)
        self._at(path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged, self._at(path))

    def find(self, path: str, detail: bool = True, **_: object) -> Any:
        def look() -> dict[str, Any]:
            top = self._at(path)
            found = [top] if top.is_file() else sorted(p for p in top.rglob("*") if p.is_file())
            names = {each.relative_to(self.root).as_posix(): each.stat() for each in found}
            return {n: {"size": s.st_size, "etag": s.st_mtime_ns} for n, s in names.items()}

        return self._call(look)

    def cat_file(self, path: str, start: Any = None, end: Any = None, **_: object) -> bytes:
        return self._call(lambda: self._at(path).read_bytes()[start:end])

    def pipe_file(self, path: str, value: bytes, **_: object) -> None:
        self._call(lambda: self._put(path, value))

    def put_file(self, lpath: str, rpath: str, **_: object) -> None:
        self._call(lambda: self._put(rpath, Path(lpath).read_bytes()))

    def cp_file(self, path1: str, path2: str, **_: object) -> None:
        self._call(lambda: self._put(path2, self._at(path1).read_bytes()))

    def rm_file(self, path: str) -> None:
        def remove() -> None:
            self._at(path).unlink()
            for parent in self._at(path).parents:  # stores have no empty folders
                if any(parent.iterdir()):
                    return
                parent.rmdir()

        self._call(remove)


@pytest.fixture(autouse=True)
def disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the store. The copies of this machine are in `folder`/stage."""
    fsspec.register_implementation("disk", DiskStore, clobber=True)
    monkeypatch.setitem(url.SCHEMES, "disk", url.Scheme())
    monkeypatch.setattr(store, "PAUSES", (0.0,))
    for module in (store, inputs, published, run_store):
        monkeypatch.setattr(module, "AT_ONCE", 1)  # the calls come in one order
    monkeypatch.setattr(lease, "POLL", 0.005)
    monkeypatch.setattr(lease, "EXPIRES", 0.01)
    monkeypatch.setenv("TEMPERING_STAGE", str(folder / "stage"))
    DiskStore.root = folder / "disk"
    DiskStore.root.mkdir()
    yield DiskStore.root
    DiskStore.hook = None


@pytest.fixture
def work(fill_light: Any) -> Callable[..., None]:
    """Saves the checkpoints of some steps, then perhaps ends the run with a model."""

    def filling(step: int) -> Callable[[Path], None]:
        def write(staging: Path) -> None:
            fill_light(step)(staging)
            files.write_text(staging / "config.json", "{}")  # listed before the manifest

        return write

    def work(*steps: int, ends: bool = False, best: int | None = None) -> None:
        folder = RunFolder(URL)
        ranks = Ranks()
        with folder.opened("auto", ranks):
            for step in steps:
                folder.log({"step": step})
                folder.save_checkpoint(step, filling(step), ranks=ranks, limit=2, best=best)
            if ends:
                folder.publish_model(steps[-1], model_of(steps[-1]), ranks)
                folder.write_results({"steps": steps[-1]})

    return work


def model_of(step: int) -> Callable[[Path], None]:
    def write(staging: Path) -> None:
        for name in ("a.txt", "b.txt"):
            files.write_text(staging / name, f"of step {step}")

    return write


def in_store() -> list[int]:
    """The steps of the checkpoints that are in the store as they were saved."""
    steps = []
    for path in (DiskStore.root / "bucket" / "runs" / "a").glob("checkpoint-*"):
        try:
            verify(path)
            steps.append(int(path.name.removeprefix("checkpoint-")))
        except CorruptCheckpoint:
            assert not (path / "manifest.json").exists(), path
    return sorted(steps)


def resumed(stage: Path) -> Path | None:
    """The checkpoint from which a run goes on."""
    os.environ["TEMPERING_STAGE"] = str(stage)
    with RunFolder(URL).opened("auto", Ranks()) as checkpoint:
        if checkpoint is not None:
            verify(checkpoint)
        return checkpoint


def check(top: Path, allowed: list[list[int]]) -> tuple[int, ...]:
    """Nothing is lost, neither on a fresh disk nor on the same; returns what the store holds."""
    held = in_store()
    assert held in allowed
    newest = f"checkpoint-{held[-1]}" if held else None
    saved = top / "disk"
    shutil.copytree(saved, top / "disk-as-it-was")
    fresh = resumed(top / "fresh")
    assert (fresh and fresh.name) == newest
    shutil.rmtree(saved)
    (top / "disk-as-it-was").rename(saved)
    same = resumed(top / "stage")
    assert same is None or newest is None or int(same.name[11:]) >= held[-1]
    assert in_store() == sorted({*held, *([int(same.name[11:])] if same else [])})
    return tuple(held)


def every_call(
    base: Path, attempt: Callable[[int], bool], look: Callable[[Path], Any], stride: int = 1
) -> set[Any]:
    """What `look` finds after a fault at call 1, 1 + stride, ..., each on a copy of `base`."""
    found, k = set(), 1
    while True:
        top = base.with_name(f"case-{k}")
        shutil.copytree(base, top)
        DiskStore.root = top / "disk"
        os.environ["TEMPERING_STAGE"] = str(top / "stage")
        faulty = attempt(k)
        DiskStore.hook = None
        found.add(look(top))
        shutil.rmtree(top)
        if not faulty:
            assert k > 40, k
            return found
        k += stride


def failing_from(work: Callable[[], None]) -> Callable[[int], bool]:
    """Runs `work` with a store that fails from call k on; whether it did."""

    def attempt(k: int) -> bool:
        calls = iter(range(1, 10**6))

        def hook(moment: str) -> None:
            if next(calls) >= k:
                raise OSError("the store does not answer")

        DiskStore.hook = hook
        try:
            work()
        except EnvironmentFault as fault:
            assert "the store does not answer" in str(fault), k
        return next(calls) > k

    return attempt


def dying_at(work: Callable[[], None]) -> Callable[[int], bool]:
    """Runs `work` in a child that dies at call k; whether it did."""

    def attempt(k: int) -> bool:
        def dies() -> None:
            calls = iter(range(1, 10**6))
            DiskStore.hook = lambda moment: os._exit(CRASHED) if next(calls) == k else None
            work()

        code = in_a_child(dies)
        assert code in (0, CRASHED), k
        return code == CRASHED

    return attempt


def in_a_child(work: Callable[[], None]) -> int:
    """Runs `work` in a fork of this process, which ends without an exit handler; its exit code."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"{error!r}", flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


FAULTS = {"fails": failing_from, "dies": dying_at}


@pytest.fixture
def base(folder: Path, disk: Path, work: Callable[..., None]) -> Path:
    """A run of two steps in the store, with its copy on this machine as a killed run leaves it."""
    base = folder / "base"
    base.mkdir()
    DiskStore.root = base / "disk"
    DiskStore.root.mkdir()
    os.environ["TEMPERING_STAGE"] = str(base / "stage")

    def begin() -> None:
        with RunFolder(URL).opened("auto", Ranks()):
            pass
        work(1, 2)

    assert in_a_child(begin) == 0
    return base


def faults_at(few: int, many: int) -> Any:
    """Faults at every `few`th call in the default tests, and every `many`th in the slow ones."""
    more = pytest.param(many, marks=pytest.mark.slow, id="many")
    return pytest.mark.parametrize("stride", [pytest.param(few, id="few"), more])


@faults_at(17, 2)
@pytest.mark.parametrize("kind", FAULTS)
def test_saving(base: Path, work: Callable[..., None], kind: str, stride: int) -> None:
    """The store holds the old checkpoints or the new one, and a run goes on from the newest."""
    attempt = FAULTS[kind](lambda: work(3, best=1))
    allowed = [[1, 2], [1, 2, 3], [1, 3]]
    found = every_call(base, attempt, lambda top: check(top, allowed), stride)
    assert found == set(map(tuple, allowed)) or stride > 2


@faults_at(29, 5)
@pytest.mark.parametrize("kind", FAULTS)
def test_replacing_the_model(base: Path, work: Callable[..., None], kind: str, stride: int) -> None:
    """Readers see a whole model or an unfinished one; after the next start a whole one."""
    work(3, ends=True)
    shutil.rmtree(base / "stage")

    def look(top: Path) -> int:
        resumed(top / "fresh")
        model = DiskStore.root / "bucket" / "runs" / "a" / "model"
        verify(model)
        left = [path.name for path in model.parent.iterdir() if path.name.startswith(".")]
        assert left == [".run.json"]
        texts = {(model / name).read_text() for name in ("a.txt", "b.txt")}
        assert texts in ({"of step 3"}, {"of step 4"})
        return int(texts.pop()[-1])

    found = every_call(base, FAULTS[kind](lambda: work(4, ends=True)), look, stride)
    assert found == {3, 4}


@faults_at(17, 5)
@pytest.mark.parametrize("kind", FAULTS)
def test_the_start_of_a_run_with_a_damaged_checkpoint(
    base: Path, kind: str, stride: int, tmp_path: Path
) -> None:
    """It goes on from the checkpoint before, and the damaged one is kept under another name."""
    damaged = base / "disk" / "bucket" / "runs" / "a" / "checkpoint-2" / "state" / "trainer.json"
    damaged.write_bytes(damaged.read_bytes().replace(b"2", b"3", 1))
    shutil.rmtree(base / "stage")

    def look(top: Path) -> bool:
        assert (found := resumed(top / "fresh")) and found.name == "checkpoint-1"
        assert in_store() == [1]
        bad = DiskStore.root / "bucket" / "runs" / "a" / ".bad-checkpoint-2"
        return (bad / "state" / "trainer.json").exists()

    attempt = FAULTS[kind](lambda: resumed(Path(os.environ["TEMPERING_STAGE"])))
    assert every_call(base, attempt, look, stride) == {True}


def test_a_call_that_fails_once_changes_nothing(base: Path, work: Callable[..., None]) -> None:
    def attempt(k: int) -> bool:
        calls = iter(range(1, 10**6))

        def hook(moment: str) -> None:
            if next(calls) == k:
                raise OSError("the store is busy")

        DiskStore.hook = hook
        work(3, ends=True, best=1)
        return next(calls) > k

    def look(top: Path) -> list[int]:
        verify(DiskStore.root / "bucket" / "runs" / "a" / "model")
        return tuple(in_store())

    assert every_call(base, attempt, look, stride=17) == {(1, 3)}


def test_a_store_that_loses_what_is_written(base: Path, work: Callable[..., None]) -> None:
    put = DiskStore._put

    def short(self: DiskStore, path: str, content: bytes) -> None:
        put(self, path, content[:-1] if path.endswith("3/state/trainer.json") else content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiskStore, "_put", short)
        DiskStore.root = base / "disk"
        with pytest.raises(EnvironmentFault, match="checkpoint-3/state/trainer.json: has"):
            work(3, best=1)
    assert in_store() == [1, 2]
    work(4, best=1)  # from the copy of this machine, which is whole
    assert in_store() == [1, 4]


def test_what_the_store_changes_is_noticed_before_others_go(
    base: Path, work: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    put = DiskStore._put

    def changed(self: DiskStore, path: str, content: bytes) -> None:
        is_new = path.endswith("3/state/trainer.json")
        put(self, path, content.replace(b"3", b"4") if is_new else content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiskStore, "_put", changed)
        work(3, best=1)
    assert "checkpoint-3/state/trainer.json: its content is not what was saved" in caplog.text
    runs = DiskStore.root / "bucket" / "runs" / "a"
    kept = {f"checkpoint-{step}" for step in (1, 2, 3)}
    assert {path.name for path in runs.glob("checkpoint-*")} == kept
    copies = (base / "stage").rglob("checkpoint-*")
    assert [path.name for path in copies] == ["checkpoint-3"]  # the only whole one
