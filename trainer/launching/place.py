"""Place: finds the rank of this process and the world size, which any launcher may have set."""

import os
import re
from dataclasses import dataclass

from trainer.errors import InputError
from trainer.launching.cpu_threads import openmp_of_rank, usable_cores
from trainer.runs.run import LaunchSettings, is_host

WORKER = "TEMPERING_RUN"
"""The environment variable in which our own launcher passes the config to a rank."""


@dataclass(frozen=True)
class Place:
    """A rank among `world_size` ranks, and the address at which the ranks find each other."""

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int
    job: str = ""
    """Slurm's ids of the job and its step, which distinguish steps that use the same port."""


def find_place(launch: LaunchSettings) -> Place | None:
    """The place that environment variables name; None if no launcher started this process.

    Slurm's variables are translated into those that torch and Accelerate read. Raises InputError
    if variables are missing, contradict each other, or contradict `launch`.
    """
    job = ""
    if is_task_of_srun():
        job = f"{_slurm('JOB_ID', 'JOBID')}.{_step()}"
        _translate_slurm(launch)
    given = [name for name in ("RANK", "WORLD_SIZE") if name in os.environ]
    if not given:
        _ignore_other_launchers()
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
    address, port = _meeting_point_found()
    if not is_worker() and launch.rendezvous and launch.meeting_point != (address, port):
        found = f"found {launch.rendezvous}, but the launcher has set {address}:{port}"
        raise InputError(f"launch.rendezvous: {found}; accepted: null")
    return Place(rank, world_size, _number("LOCAL_RANK"), address, port, job)


def is_worker() -> bool:
    """Whether our own launcher started this process."""
    return WORKER in os.environ


def threads_of_each(processes: int) -> int:
    """The number of CPU threads for each of `processes` processes on this machine."""
    return max(1, usable_cores() // processes)


def count_devices() -> int:
    """The number of GPUs, or other accelerators, that this process can use; 0 without any."""
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def check_device(place: Place) -> None:
    """Raise InputError if there are fewer GPUs than ranks on a machine that has GPUs."""
    devices = count_devices()
    if place.local_rank < devices or devices == 0:
        return
    # with srun --gpus-per-task, each task sees only its own GPUs
    if devices == 1 and "SLURM_PROCID" in os.environ:
        os.environ["LOCAL_RANK"] = "0"
        return
    found = f"local rank {place.local_rank} was started on a machine with {devices} GPUs"
    raise InputError(f"launch: {found}; accepted: a GPU for each rank, or none at all")


def _ignore_other_launchers() -> None:
    """Remove LOCAL_RANK from the environment.

    Raises InputError for variables from which Accelerate would infer another launcher.
    """
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


def _meeting_point_found() -> tuple[str, int]:
    address, port = _text("MASTER_ADDR"), _number("MASTER_PORT")
    if not is_host(address):
        raise InputError(f"MASTER_ADDR: found {address!r:.80}; accepted: a host or an address")
    if not 0 < port < 2**16:
        raise InputError(f"MASTER_PORT: found {port}; accepted: 1 to 65535")
    return address, port


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
    """Whether srun started this process as one of several tasks.

    Slurm also sets its variables for a batch script, but without the variables of a step.
    """
    names = os.environ.keys()
    several = _slurm("STEP_NUM_TASKS", "NTASKS", "NPROCS") not in ("", "1")
    in_batch_script = "SLURM_JOB_ID" in names and not names & {"SLURM_STEP_ID", "SLURM_STEPID"}
    placed = bool(names & {"RANK", "WORLD_SIZE"})  # started by torchrun within srun
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
    """The CPU threads of a task: its own cores if srun bound it to some, else an equal share."""
    cores = usable_cores()
    return cores if cores < (os.cpu_count() or 1) else threads_of_each(local)


def _slurm(*names: str) -> str:
    """The first of these variables that is set; callers list the variables of the step first."""
    return next((v for name in names if (v := os.environ.get(f"SLURM_{name}"))), "")


def _meeting_point(launch: LaunchSettings) -> tuple[str, str]:
    """The host and port of launch.rendezvous, else the first node and a port for this step."""
    if launch.rendezvous is not None:
        host, port = launch.meeting_point
        return host, str(port)
    nodes = _slurm("STEP_NODELIST", "JOB_NODELIST", "NODELIST")
    if not nodes and "MASTER_ADDR" not in os.environ:
        accepted = "accepted: what srun sets, or launch.rendezvous=HOST:PORT"
        raise InputError(f"SLURM_JOB_NODELIST: not set, though there are several tasks; {accepted}")
    # concurrent jobs, and the steps of a job, have similar ids; each gets a port of its own
    number = int(_slurm("JOB_ID", "JOBID") or 0) + 1009 * _step()
    return first_host(nodes), str(15000 + number % 15000)


def _step() -> int:
    return int(_slurm("STEP_ID", "STEPID") or 0)


def first_host(nodes: str) -> str:
    """The first host name of a Slurm node list: "gpu03" for "gpu[03-07,9],cpu1"."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[0] if first else "")


def _tasks_here(tasks_per_node: str, otherwise: int) -> int:
    """This node's entry of a list such as "4(x2),3", which means 4, 4, 3."""
    found: list[int] = []
    for number, repeated in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks_per_node):
        found += [int(number)] * int(repeated or 1)
    node = int(_slurm("NODEID") or 0)
    return found[node] if node < len(found) else max(1, otherwise)
