"""The number of threads of a process, by affinity and cgroups, and how they wait."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.launching import cpu_threads
from trainer.launching.cpu_threads import (
    CHOSEN,
    SPINS,
    cpu_quota,
    openmp_of_rank,
    prepare_threads,
    usable_cores,
)
from trainer.launching.place import threads_of_each


def group(root: Path, own: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


CASES: dict[str, tuple[str, dict[str, str], float | None]] = {
    "no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    "of the group": ("0::/job\n", {"job/cpu.max": "150000 100000\n"}, 1.5),
    "of one above": (
        "0::/a/b\n",
        {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n", "cpu.max": "max 1\n"},
        3.0,
    ),
    "version 1": (
        "5:cpu,cpuacct:/docker\n3:memory:/other\n",
        {"cpu/docker/cpu.cfs_quota_us": "200000\n", "cpu/docker/cpu.cfs_period_us": "100000\n"},
        2.0,
    ),
    "version 1 without": (
        "5:cpu,cpuacct:/\n",
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        None,
    ),
    "unreadable": ("", {}, None),
    "strange": ("x\n", {"cpu.max": "a b c\n"}, None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_limit_of_control_groups(name: str, tmp_path: Path) -> None:
    own, files, expected = CASES[name]
    assert cpu_quota(group(tmp_path, own, files)) == expected


def test_cores_are_those_of_affinity_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_threads, "_affinity", lambda: set(range(8)))
    for limit, cores, threads in ((None, 8, 4), (2.5, 2, 1), (0.3, 1, 1), (64.0, 8, 4)):
        monkeypatch.setattr(cpu_threads, "cpu_quota", lambda limit=limit: limit)
        assert usable_cores() == cores and threads_of_each(2) == threads


@pytest.mark.parametrize(
    ("given", "limit", "expected"),
    [
        ({}, None, {"GOMP_SPINCOUNT": SPINS}),
        ({"OMP_WAIT_POLICY": "active"}, None, {"OMP_WAIT_POLICY": "active"}),
        ({"GOMP_SPINCOUNT": "7"}, None, {"GOMP_SPINCOUNT": "7"}),
        ({}, 2.9, {"GOMP_SPINCOUNT": SPINS, "OMP_NUM_THREADS": "2"}),
        ({"OMP_NUM_THREADS": "6"}, 2.9, {"GOMP_SPINCOUNT": SPINS, "OMP_NUM_THREADS": "6"}),
        ({}, 64.0, {"GOMP_SPINCOUNT": SPINS}),
    ],
)
def test_what_openmp_is_told(
    given: dict[str, str],
    limit: float | None,
    expected: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = dict(given)
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(cpu_threads, "cpu_quota", lambda: limit)
    monkeypatch.setattr(cpu_threads, "_physical_cores", lambda: 8)
    prepare_threads()
    ours = ",".join(name for name in expected if name not in given)
    assert environment == {**expected, **({CHOSEN: ours} if ours else {})}


@pytest.mark.parametrize(
    ("given", "threads", "policy", "spins"),
    [
        ({}, "2", "passive", "0"),
        ({"OMP_NUM_THREADS": "6"}, "6", "passive", "0"),
        ({"OMP_WAIT_POLICY": "active"}, "2", "active", None),
        ({"GOMP_SPINCOUNT": "7"}, "2", "passive", "7"),
    ],
)
def test_ranks_share_the_cores_and_sleep_at_barriers(
    given: dict[str, str],
    threads: str,
    policy: str,
    spins: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ranks inherit the user's variables, but not those that their launcher set for itself."""
    environment = dict(given)
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(cpu_threads, "cpu_quota", lambda: 4.0)
    monkeypatch.setattr(cpu_threads, "_physical_cores", lambda: 64)
    prepare_threads()
    prepare_threads()  # a job of a sweep inherits the variables
    monkeypatch.setattr(cpu_threads, "_affinity", lambda: set(range(64)))
    found = {**environment, **openmp_of_rank(threads_of_each(2))}
    assert (found["OMP_NUM_THREADS"], found["OMP_WAIT_POLICY"]) == (threads, policy)
    assert found.get("GOMP_SPINCOUNT") == spins


def test_the_launcher_tells_openmp_before_torch_loads_it(repository: Path, tmp_path: Path) -> None:
    """OpenMP prints its settings on standard error."""
    if not sys.platform.startswith("linux"):
        pytest.skip("GNU's OpenMP")
    ours = ("OMP_", "GOMP_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    code = (
        "import launch, sys; assert 'torch' not in sys.modules;"
        "launch.main = lambda: bool(__import__('torch').get_num_threads()) - 1;"
        "launch.command_line()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        cwd=repository,
    )
    assert done.returncode == 0, done.stderr
    assert f"GOMP_SPINCOUNT = '{SPINS}'" in done.stderr
