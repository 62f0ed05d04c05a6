"""Place: which rank of how many this process is, as torchrun, accelerate, srun or we tell it."""

import os
import re
from dataclasses import dataclass

from trainer.errors import InputError
from trainer.processes.cpu_threads import openmp_of_rank, usable_cores
from trainer.run import LaunchSettings

WORKER = "TEMPERING_RUN"
"""The variable in which our own launcher hands a rank its config."""


@dataclass(frozen=True)
class Place:
    """One rank among `world_size`, and where they meet."""

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int
    job: str = ""
    """What Slurm calls the step that we are a task of, so that no other step is taken for ours."""


def find_place(launch: LaunchSettings) -> Place | None:
    """The place that the environment tells; None where nobody started us as one of several.

    Slurm's variables are translated into those that torch and Accelerate read. Raises InputError
    where variables are missing, contradict each other, or contradict what `launch` says.
    """
    job = ""
    if is_task_of_srun():
        job = f"{_slurm('JOB_ID', 'JOBID')}.{_step()}"
        _translate_slurm(launch)
    given = [name for name in ("RANK", "WORLD_SIZE") if name in os.environ]
    if not given:
        _leave_no_traces()
        return None
    if len(given) == 1:
        missing = "WORLD_SIZE" if given == ["RANK"] else "RANK"
        accepted = "accepted: both, as torchrun sets them, or neither"
        raise InputError(f"{given[0]}: found {os.environ[given[0]]} without {missing}; {accepted}")
    rank, world_size = _number("RANK"), _number("WORLD_SIZE")
    if not 0 <= rank < world_size:
        raise InputError(f"RANK: found {rank}; accepted: 0 to {world_size - 1}, below WORLD_SIZE")
    if not is_worker():
        _check_numbers(launch, world_size)
    if world_size == 1:
        return Place(0, 1, 0, "", 0)
    address, port = _text("MASTER_ADDR"), _number("MASTER_PORT")
    if not is_worker() and launch.rendezvous and launch.meeting_point != (address, port):
        found = f"found {launch.rendezvous}, but the ranks were told to meet at {address}:{port}"
        raise InputError(f"launch.rendezvous: {found}; accepted: null")
    return Place(rank, world_size, _number("LOCAL_RANK"), address, port, job)


def is_worker() -> bool:
    """Whether our own launcher started this process."""
    return WORKER in os.environ


def threads_of_each(processes: int) -> int:
    """CPU threads of each of `processes` on this machine."""
    return max(1, usable_cores() // processes)


def count_devices() -> int:
    """The GPUs, or other accelerators, that this process sees; 0 on a CPU."""
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def check_device(place: Place) -> None:
    """Raise InputError where a rank has no GPU of its own, though this machine has some."""
    devices = count_devices()
    if place.local_rank < devices or devices == 0:
        return
    if devices == 1 and "SLURM_PROCID" in os.environ:  # srun --gpus-per-task shows each its own
        os.environ["LOCAL_RANK"] = "0"
        return
    found = f"local rank {place.local_rank} was started on a machine with {devices} GPUs"
    raise InputError(f"launch: {found}; accepted: a GPU for each rank, or none at all")


def _leave_no_traces() -> None:
    """Refuse what Accelerate would take for a launcher, and drop what it would take for a rank."""
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"):
        if os.environ.get(name, "1") != "1":
            found = f"found {os.environ[name]} without RANK and WORLD_SIZE"
            raise InputError(f"{name}: {found}; accepted: torchrun, srun, or no launcher")
    os.environ.pop("LOCAL_RANK", None)


def _text(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        found = f"not set, though WORLD_SIZE is {os.environ['WORLD_SIZE']}"
        raise InputError(f"{name}: {found}; accepted: what torchrun sets")
    return value


def _number(name: str) -> int:
    value = _text(name)
    if not re.fullmatch("[0-9]{1,9}", value):
        raise InputError(f"{name}: found {value!r}; accepted: a whole number")
    return int(value)


def _check_numbers(launch: LaunchSettings, world_size: int) -> None:
    wanted, local = launch.num_processes, os.environ.get("LOCAL_WORLD_SIZE", str(world_size))
    if str(wanted) not in ("auto", local, str(world_size)):
        found = f"found {wanted}, but {local} were started on this machine"
        raise InputError(f"launch.num_processes: {found}; accepted: auto")
    if launch.num_nodes > 1:
        found = f"found {launch.num_nodes}, but another launcher has started this process"
        raise InputError(f"launch.num_nodes: {found}; accepted: 1")


# --- Slurm ---


def is_task_of_srun() -> bool:
    """One of several tasks; a batch script has srun's variables too, but no step."""
    names = os.environ.keys()
    several = _slurm("STEP_NUM_TASKS", "NTASKS", "NPROCS") not in ("", "1")
    in_batch_script = "SLURM_JOB_ID" in names and not names & {"SLURM_STEP_ID", "SLURM_STEPID"}
    placed = bool(names & {"RANK", "WORLD_SIZE"})  # torchrun within srun
    return "SLURM_PROCID" in names and several and not in_batch_script and not placed


def _translate_slurm(launch: LaunchSettings) -> None:
    tasks = int(_slurm("STEP_NUM_TASKS", "NTASKS", "NPROCS"))
    nodes = int(_slurm("STEP_NUM_NODES", "NNODES") or 1)
    host, port = _meeting_point(launch)
    local = _tasks_here(_slurm("STEP_TASKS_PER_NODE", "TASKS_PER_NODE"), tasks // nodes)
    found = {
        "RANK": _slurm("PROCID"),
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": _slurm("LOCALID") or "0",
        "LOCAL_WORLD_SIZE": str(local),
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
    }
    for name, value in found.items():
        os.environ.setdefault(name, value)
    threads = _slurm("CPUS_PER_TASK") or _threads_of_task(local)
    os.environ.update(openmp_of_rank(int(threads)))


def _threads_of_task(local: int) -> int:
    """Where a task may not use all cores, srun has bound it to some of its own."""
    cores = usable_cores()
    return cores if cores < (os.cpu_count() or 1) else threads_of_each(local)


def _slurm(*names: str) -> str:
    """The first of these variables that is set; the step's come before the job's."""
    return next((v for name in names if (v := os.environ.get(f"SLURM_{name}"))), "")


def _meeting_point(launch: LaunchSettings) -> tuple[str, str]:
    """The first node, and a port that the tasks of this step alone agree on."""
    if launch.rendezvous is not None:
        host, port = launch.meeting_point
        return host, str(port)
    nodes = _slurm("STEP_NODELIST", "JOB_NODELIST", "NODELIST")
    if not nodes and "MASTER_ADDR" not in os.environ:
        accepted = "accepted: what srun sets, or launch.rendezvous=HOST:PORT"
        raise InputError(f"SLURM_JOB_NODELIST: not set, though there are several tasks; {accepted}")
    # jobs on one node have numbers close to each other, and so have their steps
    number = int(_slurm("JOB_ID", "JOBID") or 0) + 1009 * _step()
    return first_host(nodes), str(15000 + number % 15000)


def _step() -> int:
    return int(_slurm("STEP_ID", "STEPID") or 0)


def first_host(nodes: str) -> str:
    """The first name of a Slurm node list: "gpu[03-07,9],cpu1" is "gpu03"."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[0] if first else "")


def _tasks_here(tasks_per_node: str, otherwise: int) -> int:
    """This node's entry of "4(x2),3", which says 4, 4, 3."""
    found: list[int] = []
    for number, repeated in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks_per_node):
        found += [int(number)] * int(repeated or 1)
    node = int(_slurm("NODEID") or 0)
    return found[node] if node < len(found) else max(1, otherwise)
