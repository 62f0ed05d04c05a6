"""The rank of a process, from the variables of torchrun, accelerate and Slurm."""

import os

import pytest
import torch

from trainer.errors import InputError
from trainer.launching import cpu_threads
from trainer.launching.joining import warn_of_idle_devices
from trainer.launching.place import (
    WORKER,
    Place,
    check_device,
    find_place,
    first_host,
)
from trainer.runs.run import LaunchSettings

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "gpu01",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "7",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NNODES": "2",
    "SLURM_TASKS_PER_NODE": "4,3",
    "SLURM_JOB_NODELIST": "gpu[03-04]",
    "SLURM_JOB_ID": "4000017",
    "SLURM_STEP_ID": "0",
}


def place_in(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], **launch: object
) -> Place | None:
    """The place in an environment with only these variables."""
    ours = ("SLURM_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "OMP_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    monkeypatch.setattr(os, "environ", {**kept, **environment})
    return find_place(LaunchSettings(**launch))  # type: ignore[arg-type]


def test_nobody_started_us(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place_in(monkeypatch, {}) is None
    assert place_in(monkeypatch, {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) is None
    batch_script = {k: v for k, v in SRUN.items() if k != "SLURM_STEP_ID"}
    assert place_in(monkeypatch, {**batch_script, "SLURM_PROCID": "0"}) is None


def test_a_local_rank_alone_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place_in(monkeypatch, {"LOCAL_RANK": "0", "PMI_SIZE": "1"}) is None
    assert "LOCAL_RANK" not in os.environ  # Accelerate would expect MASTER_ADDR


def test_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Place(3, 8, 1, "gpu01", 29500)
    for number in ("auto", 2, 8):
        assert place_in(monkeypatch, TORCHRUN, num_processes=number) == expected
    assert place_in(monkeypatch, {**SRUN, **TORCHRUN}) == expected  # torchrun within srun
    assert place_in(monkeypatch, {"RANK": "0", "WORLD_SIZE": "1"}) == Place(0, 1, 0, "", 0)


def test_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    port = 15000 + 4000017 % 15000
    assert place_in(monkeypatch, SRUN) == Place(5, 7, 1, "gpu03", port, "4000017.0")
    assert os.environ["RANK"] == "5" and os.environ["LOCAL_WORLD_SIZE"] == "3"
    chosen = place_in(monkeypatch, SRUN, rendezvous="head:7777")
    assert chosen is not None and (chosen.address, chosen.port) == ("head", 7777)


def test_threads_of_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    monkeypatch.setattr(cpu_threads, "cpu_quota", lambda: None)  # a container may have one
    for bound, asked, expected in ((12, {}, "4"), (5, {}, "5"), (5, {"CPUS_PER_TASK": "2"}, "2")):
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda _, n=bound: set(range(n)), raising=False
        )
        place_in(monkeypatch, {**SRUN, **{f"SLURM_{k}": v for k, v in asked.items()}})
        assert os.environ["OMP_NUM_THREADS"] == expected


def test_steps_of_one_job_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [place_in(monkeypatch, {**SRUN, "SLURM_STEP_ID": str(step)}) for step in range(9)]
    assert len({place.port for place in places if place}) == 9
    assert len({place.job for place in places if place}) == 9


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu01", "gpu01"),
        ("gpu[03-07,9],cpu1", "gpu03"),
        ("a,b[1-2]", "a"),
        ("rack[2,4]node[01-03]-ib", "rack2node01-ib"),
    ],
)
def test_first_host(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PMI_SIZE": "2", "PMI_RANK": "0"}, "PMI_SIZE: found 2 without RANK and WORLD_SIZE; "),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE: found 4 without RANK"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE: found 2 without RANK"),
        ({"RANK": "0"}, "RANK: found 0 without WORLD_SIZE"),
        ({**TORCHRUN, "RANK": "8"}, "RANK: found 8; accepted: 0 to 7"),
        ({**TORCHRUN, "RANK": "x"}, "RANK: found 'x'; accepted: a whole number"),
        ({**TORCHRUN, "MASTER_ADDR": ""}, "MASTER_ADDR: not set, though WORLD_SIZE is 8"),
        ({**TORCHRUN, "MASTER_ADDR": "gpu..x"}, "MASTER_ADDR: found 'gpu..x'; accepted: a host or"),
        ({**TORCHRUN, "MASTER_PORT": "123456"}, "MASTER_PORT: found 123456; accepted: 1 to 65535"),
        ({**TORCHRUN, "LOCAL_RANK": ""}, "LOCAL_RANK: not set"),
        ({**SRUN, "SLURM_JOB_NODELIST": ""}, "SLURM_JOB_NODELIST: not set"),
    ],
)
def test_refusals(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        place_in(monkeypatch, environment)


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        ({"num_processes": 4}, "launch.num_processes: found 4, but 2 were started"),
        ({"num_nodes": 4, "rendezvous": "gpu01:29500"}, "launch.num_nodes: found 4, but another"),
        ({"rendezvous": "gpu01:1"}, "launch.rendezvous: found gpu01:1, .* has set gpu01:29500; "),
    ],
)
def test_what_somebody_else_has_decided(
    monkeypatch: pytest.MonkeyPatch, launch: dict[str, object], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        place_in(monkeypatch, TORCHRUN, **launch)
    assert place_in(monkeypatch, TORCHRUN, rendezvous="gpu01:29500") is not None
    ours = {**TORCHRUN, WORKER: "a config"}
    assert place_in(monkeypatch, ours, num_nodes=4, rendezvous="gpu01:1") is not None


def test_a_rank_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    place = place_in(monkeypatch, TORCHRUN)
    assert place is not None
    with pytest.raises(InputError, match="local rank 1 was started on a machine with 1 GPUs"):
        check_device(place)
    os.environ["SLURM_PROCID"] = "3"  # --gpus-per-task: each task sees its GPU as number 0
    check_device(place)
    assert os.environ["LOCAL_RANK"] == "0"
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    check_device(place)


def test_gpus_without_a_process_are_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 8)
    for tasks, warned in (("1,1", True), ("8,8", False)):
        caplog.clear()
        task = {**SRUN, "SLURM_LOCALID": "0", "SLURM_TASKS_PER_NODE": tasks}
        place = place_in(monkeypatch, task)
        assert place is not None
        warn_of_idle_devices(place)
        assert ("1 of the 8 GPUs of this machine are used" in caplog.text) == warned
