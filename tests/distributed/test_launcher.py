"""One command, many processes: equal numbers with any number and launcher, and none is left over.

Each test starts real processes of a tiny model; the longer ones are marked slow.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.jobs.conftest import DATA, tiny, write_tables  # noqa: F401 (a fixture)
from tests.ports import reserved_port
from trainer.launching import rendezvous
from trainer.training.interruption import STOPPING

EXACT = ("trainer.optimizer=sgd", "trainer.learning_rate=0.1", "trainer.precision=fp32")
SHORT = (*DATA, *EXACT, "trainer.global_batch_size=11", "trainer.num_epochs=2")
LONG = (*DATA, *EXACT, "trainer.max_steps=100000", "trainer.logging_steps=1")
QUIET = ("trainer.eval_steps=0", "trainer.save_steps=0")
TWO = "launch.num_processes=2"


class Bench:
    """A folder with tables and a tiny model, in which commands are started."""

    def __init__(self, folder: Path, model: Path, repository: Path) -> None:
        self.folder, self.model, self.repository = folder, model, repository
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "ACCELERATE_"))}
        self.environment = {
            **kept,
            "PYTHONPATH": str(repository),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "TEMPERING_CACHE": str(folder / "cache"),
        }

    def start(self, *arguments: str, by: tuple[str, ...] = (), **variables: str) -> Any:
        """A command in its own session, started `by` another launcher if one is given."""
        command = [sys.executable, *by, str(self.repository / "launch.py"), *arguments]
        return subprocess.Popen(
            [*command, f"model.path={self.model}"],
            cwd=self.folder,
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def weights(self, run: str) -> torch.Tensor:
        """The final weights of a run, as one vector."""
        tensors = load_file(self.folder / run / "model" / "model.safetensors")
        return torch.cat([tensors[name].flatten() for name in sorted(tensors)])

    def results(self, run: str) -> dict[str, Any]:
        """The results of a run."""
        return json.loads((self.folder / run / "results.json").read_text())

    def wait_for(self, path: str, process: Any) -> None:
        """Wait until a file of a run exists and is not empty; a run without it is killed."""
        file, end = self.folder / path, time.monotonic() + 600
        while not (file.exists() and (file.is_dir() or file.stat().st_size)):
            if time.monotonic() > end:
                os.killpg(process.pid, signal.SIGKILL)
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)


def finished(process: Any) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    try:
        out, err = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, tiny: Path, repository: Path) -> Bench:  # noqa: F811
    """The folder, with a run of one process in `one` and one of our launcher's two in `two`."""
    folder = tmp_path_factory.mktemp("bench")
    write_tables(folder)
    made = Bench(folder, tiny, repository)
    for run, processes in (("one", "launch.num_processes=1"), ("two", TWO)):
        code, _, err = finished(made.start(*SHORT, f"output_dir={run}", processes))
        assert code == 0, err
        assert err.count("1 of 40 rows is in dataset.train too") == 1  # the warning appears once
    return made


def test_two_processes_come_to_what_one_comes_to(bench: Bench) -> None:
    one, two = bench.weights("one"), bench.weights("two")
    assert (one - two).norm() <= 1e-5 * one.norm()
    alone, together = bench.results("one"), bench.results("two")
    assert together["samples"] == alone["samples"] == 2 * 96
    assert together["metrics"] == pytest.approx(alone["metrics"], rel=1e-6)


def test_one_folder_for_all_ranks(bench: Bench) -> None:
    one, two = ({p.name for p in (bench.folder / run).iterdir()} for run in ("one", "two"))
    assert two - one == {"rank-1.log"} and not one - two
    log = (bench.folder / "two" / "rank-1.log").read_text()
    assert log.count("\n") == 1 and "1 of 40 rows is in dataset.train too" in log


@pytest.mark.slow
@pytest.mark.parametrize(
    "by",
    [
        ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2")
        + ("--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"),
    ],
    ids=["torchrun", "accelerate"],
)
def test_other_launchers_give_the_same(
    bench: Bench, by: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    run = request.node.callspec.id
    code, _, err = finished(bench.start(*SHORT, f"output_dir={run}", by=by))
    assert code == 0, err
    check_same_as_two(bench, run)


def srun(bench: Bench, *arguments: str, procid: int, path: str = "", **others: str) -> Any:
    """One of two tasks, as srun starts them; `path` is Python's path."""
    slurm = {"PROCID": str(procid), "LOCALID": str(procid), "NTASKS": "2", "STEP_ID": "0"}
    slurm |= {"JOB_ID": str(os.getpid()), "JOB_NODELIST": "127.0.0.[1-2]", **others}
    variables = {f"SLURM_{name}": value for name, value in slurm.items()}
    return bench.start(*arguments, PYTHONPATH=path or str(bench.repository), **variables)


@pytest.mark.slow
def test_srun_gives_the_same(bench: Bench) -> None:
    tasks = [srun(bench, *SHORT, "output_dir=srun", procid=procid) for procid in (1, 0)]
    ends = [finished(task) for task in tasks]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert ends[0][1:] == ("", "")  # rank 1 prints nothing
    check_same_as_two(bench, "srun")
    tasks = [srun(bench, *SHORT, "output_dir=srun", procid=procid) for procid in (1, 0)]
    ends = [finished(task) for task in tasks]
    assert ends[0] == (0, "", "") and ends[1][::2] == (0, ""), ends
    assert ends[1][1].count("complete at step 18; nothing to do") == 1


def check_same_as_two(bench: Bench, run: str) -> None:
    assert torch.equal(bench.weights(run), bench.weights("two"))
    assert bench.results(run)["metrics"] == bench.results("two")["metrics"]
    names = {p.name for p in (bench.folder / run).iterdir()}
    assert names == {p.name for p in (bench.folder / "two").iterdir()}


@pytest.mark.slow
def test_ranks_of_other_configs_are_refused(bench: Bench) -> None:
    both = [srun(bench, *SHORT, "output_dir=odd", f"seed={n}", procid=n) for n in (0, 1)]
    for code, _, err in map(finished, both):
        assert code == 2
        assert err.startswith("error: launch: on rank 1 seed is 1, not 0; accepted:")
    assert not (bench.folder / "odd" / "config.yaml").exists()


@pytest.mark.slow
def test_a_rank_that_never_comes_is_named(bench: Bench) -> None:
    task = srun(bench, *SHORT, "output_dir=none", "launch.timeout=2", procid=0)
    code, _, err = finished(task)
    assert code == 3
    assert err.startswith("error: launch: rank 1 of 2 did not arrive within 2 s")


@pytest.mark.slow
def test_a_rank_whose_store_is_gone_says_so(bench: Bench, port: int) -> None:
    stores = [rendezvous.open_store("127.0.0.1", port, 60, "here")]
    place = (f"launch.rendezvous=127.0.0.1:{port}", "output_dir=gone")
    task = srun(bench, *SHORT, *place, procid=1)
    assert rendezvous.wait(lambda: stores[0].num_keys() > 1, 600)  # arrived, waiting for rank 0
    stores.clear()
    code, _, err = finished(task)
    assert code == 3
    assert err.startswith("error: rank 1: rank 0, which holds the store, is gone, or another")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_nobody_waits_for_a_machine_that_dies_as_it_prepares(bench: Bench) -> None:
    """Two machines of one task each: the one that does not hold the store is killed."""
    (bench.folder / "rows.py").write_text(
        "import os, pathlib, time\n"
        "from dataclasses import dataclass\n"
        "from trainer.data.rows import Files\n"
        "@dataclass(frozen=True)\n"
        "class Rows(Files):\n"
        "    def load(self):\n"
        "        if os.environ['RANK'] == '1':\n"
        "            pathlib.Path('loading').mkdir()\n"
        "            time.sleep(3600)\n"
        "        return super().load()\n"
    )
    path = f"{bench.repository}{os.pathsep}{bench.folder}"
    own = ("trusted_packages=[rows]", "dataset._target_=rows.Rows")
    own += ("output_dir=dies", "launch.timeout=30")
    alone = {"LOCALID": "0", "NNODES": "2", "TASKS_PER_NODE": "1(x2)"}
    tasks = [srun(bench, *SHORT, *own, procid=n, path=path, **alone) for n in (0, 1)]
    bench.wait_for("loading", tasks[1])
    tasks[1].kill()
    code, _, err = finished(tasks[0])
    assert code == 3
    said = "error: launch: no heartbeat from rank 1 for 30 s while the data were prepared\n"
    assert err.endswith(said) and err.count("error: ") == 1
    finished(tasks[1])


@pytest.mark.slow
def test_each_machine_says_why_it_cannot_prepare(bench: Bench) -> None:
    """Rank 0 holds the store, and has ended when rank 1 fails."""
    (bench.folder / "wrong.py").write_text(
        "import os, time\n"
        "from dataclasses import dataclass\n"
        "from trainer.data.rows import Files\n"
        "from trainer.errors import InputError\n"
        "@dataclass(frozen=True)\n"
        "class Rows(Files):\n"
        "    def load(self):\n"
        "        time.sleep(8 * int(os.environ['RANK']))\n"
        "        raise InputError('dataset: found ' + os.environ['RANK'])\n"
    )
    path = f"{bench.repository}{os.pathsep}{bench.folder}"
    own = ("trusted_packages=[wrong]", "dataset._target_=wrong.Rows", "output_dir=wrongs")
    alone = {"LOCALID": "0", "NNODES": "2", "TASKS_PER_NODE": "1(x2)"}
    tasks = [srun(bench, *SHORT, *own, procid=n, path=path, **alone) for n in (0, 1)]
    for rank, (code, _, err) in enumerate(map(finished, tasks)):
        assert (code, err) == (2, f"error: dataset: found {rank}\n")


# --- unplanned ends ---


def ranks_of(launcher: int) -> list[psutil.Process]:
    """The processes of a launcher's ranks, by rank (process numbers start again at some point)."""
    return sorted(psutil.Process(launcher).children(), key=rank_of)


def rank_of(process: psutil.Process) -> int:
    return int(process.environ()["RANK"])


def living(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those of the processes that still run; zombies do not."""
    return [process for process in processes if runs(process)]


def runs(process: psutil.Process) -> bool:
    """Whether a process, not another one that got its number later, still runs."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def kill(processes: Sequence[psutil.Process]) -> None:
    """Kill processes, some of which may end when others do."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.fixture
def training(
    bench: Bench, request: pytest.FixtureRequest
) -> Iterator[tuple[Any, list[psutil.Process], str]]:
    """A launcher, its two ranks during training, and the name of the run."""
    run = request.node.name.replace("[", "-").rstrip("]")
    process = bench.start(*LONG, *QUIET, TWO, f"output_dir={run}", "launch.timeout=600")
    bench.wait_for(f"{run}/metrics.jsonl", process)
    ranks = ranks_of(process.pid)
    assert len(ranks) == 2
    yield process, ranks, run
    kill(ranks)
    if process.poll() is None:
        process.kill()


def end_soon(process: Any, ranks: list[psutil.Process]) -> tuple[int, str]:
    """Exit code and standard error; no process is left long before launch.timeout has passed."""
    deadline = time.monotonic() + 200
    while (process.poll() is None or living(ranks)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is not None and not living(ranks)
    code, _, err = finished(process)
    return code, err.partition("too\n")[2]  # after the warning of the data


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_rank_ends_the_run(training: Any, victim: int) -> None:
    process, ranks, _ = training
    ranks[victim].kill()
    code, err = end_soon(process, ranks)
    assert (code, err) == (3, f"error: rank {victim}: killed by SIGKILL (out of memory?)\n")


@pytest.mark.slow
def test_a_killed_launcher_takes_its_ranks_along(training: Any) -> None:
    process, ranks, _ = training
    process.kill()
    assert end_soon(process, ranks)[0] == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)]
)
def test_a_signal_saves_once_and_ends(bench: Bench, training: Any, number: int, code: int) -> None:
    process, ranks, run = training
    os.killpg(process.pid, number)  # as a terminal does with Ctrl-C
    ended, err = end_soon(process, ranks)
    (checkpoint,) = (bench.folder / run).glob("checkpoint-*")
    name = signal.Signals(number).name
    kept = f"saved {checkpoint.relative_to(bench.folder)}; the same command continues from it"
    first = f"{STOPPING}\n" if number == signal.SIGINT else ""
    assert (ended, err) == (code, f"{first}stopped by {name}: {kept}\n")


@pytest.mark.slow
def test_a_second_interrupt_leaves_at_once(bench: Bench) -> None:
    """Both ranks have received the first signal, and cannot end the step in which it came."""
    (bench.folder / "endless.py").write_text(
        "import os, pathlib, signal, time\n"
        "from dataclasses import dataclass\n"
        "from trainer.callbacks.callback import Callback\n"
        "@dataclass\n"
        "class Endless(Callback):\n"
        "    def on_step_end(self, step: int, total_steps: int) -> None:\n"
        "        rank = os.environ['RANK']\n"
        "        pathlib.Path('reached-' + rank).mkdir()\n"
        "        while True:\n"
        "            if signal.getsignal(signal.SIGINT).__self__.interrupts:\n"
        "                pathlib.Path('interrupted-' + rank).mkdir(exist_ok=True)\n"
        "            time.sleep(0.05)\n"
    )
    path = f"{bench.repository}{os.pathsep}{bench.folder}"
    own = ("trusted_packages=[endless]", "callbacks.endless._target_=endless.Endless")
    process = bench.start(*LONG, *QUIET, TWO, *own, "output_dir=endless", PYTHONPATH=path)
    for rank in (0, 1):
        bench.wait_for(f"reached-{rank}", process)
    ranks = ranks_of(process.pid)
    process.send_signal(signal.SIGINT)
    for rank in (0, 1):
        bench.wait_for(f"interrupted-{rank}", process)
    process.send_signal(signal.SIGINT)
    assert end_soon(process, ranks)[0] == 130
    assert not list((bench.folder / "endless").glob("checkpoint-*"))


@pytest.mark.slow
def test_a_rank_that_hangs_is_named(bench: Bench) -> None:
    process = bench.start(*LONG, *QUIET, TWO, "output_dir=hang", "launch.timeout=30")
    bench.wait_for("hang/metrics.jsonl", process)
    ranks = ranks_of(process.pid)
    ranks[1].suspend()
    code, _, err = finished(process)
    assert code == 3
    assert err.endswith("error: rank 1: did not answer within launch.timeout, and was killed\n")
    assert not living(ranks)


@pytest.mark.slow
def test_what_a_rank_finds_wrong_is_the_line(bench: Bench) -> None:
    wrong = ("trainer.global_batch_size=1", "model.lora.rank=2", "model.lora.targets=[nothing]")
    code, _, err = finished(bench.start(*SHORT, TWO, *wrong, "output_dir=wrong"))
    assert code == 2
    assert "trainer.global_batch_size is 1: 1 of 2 ranks have nothing to do\n" in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert re.match(
        r"error: rank [01]: model\.lora\.targets: 'nothing' is not a linear layer", line
    )


@pytest.mark.slow
def test_a_bug_in_a_rank_keeps_its_traceback(bench: Bench) -> None:
    (bench.folder / "mine.py").write_text(
        "import os\n"
        "from dataclasses import dataclass\n"
        "from trainer.callbacks.callback import Callback\n"
        "@dataclass\n"
        "class Bug(Callback):\n"
        "    def on_step_end(self, step: int, total_steps: int) -> None:\n"
        "        if os.environ['RANK'] == '1':\n"
        "            raise KeyError('a bug')\n"
    )
    path = f"{bench.repository}{os.pathsep}{bench.folder}"
    own = ("trusted_packages=[mine]", "callbacks.bug._target_=mine.Bug", "output_dir=bug")
    code, _, err = finished(bench.start(*SHORT, TWO, *own, PYTHONPATH=path))
    assert code == 1
    assert err.count("Traceback") == 1 and "KeyError: 'a bug'\n" in err
    assert err.endswith("error: rank 1: ended with exit code 1\n")


# --- several machines ---


@pytest.fixture
def port() -> Iterator[int]:
    """A free port."""
    with reserved_port() as found:
        yield found


@pytest.fixture
def machine(bench: Bench, port: int) -> Callable[..., Any]:
    """Start the launcher of one of two machines, which connect over loopback."""

    def start(node: int, *arguments: str, **variables: str) -> Any:
        place = ("launch.num_nodes=2", f"launch.node_rank={node}", "launch.num_processes=1")
        place += (f"launch.rendezvous=127.0.0.1:{port}",)
        return bench.start(*arguments, *place, TEMPERING_SECRET="of this run", **variables)

    return start


@pytest.mark.slow
def test_two_machines_give_the_same(bench: Bench, machine: Callable[..., Any]) -> None:
    both = [machine(node, *SHORT, "output_dir=machines") for node in (1, 0)]
    ends = [finished(launcher) for launcher in both]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert ends[0][1:] == ("", "")
    check_same_as_two(bench, "machines")
    again = [machine(node, *SHORT, "output_dir=machines") for node in (0, 1)]
    for code, out, err in map(finished, again):  # neither ends before the other has arrived
        assert (code, err) == (0, "") and "nothing to do" in out


@pytest.mark.slow
def test_one_machine_goes_on_alone(bench: Bench, machine: Callable[..., Any]) -> None:
    """One of two is killed in the middle; the samples and weights of the other do not change.

    Its rank waits for the end after a step, which a fast run would otherwise have before.
    """
    (bench.folder / "staying.py").write_text(
        "import os, pathlib, time\n"
        "from dataclasses import dataclass\n"
        "from trainer.callbacks.callback import Callback\n"
        "@dataclass\n"
        "class Staying(Callback):\n"
        "    def on_step_end(self, step: int, total_steps: int) -> None:\n"
        "        if os.environ.get('RANK') == '1' and step == 7:\n"
        "            pathlib.Path('staying').mkdir()\n"
        "            time.sleep(3600)\n"
    )
    path = f"{bench.repository}{os.pathsep}{bench.folder}"
    steps = (*DATA, *EXACT, "trainer.global_batch_size=11", "trainer.num_epochs=8")
    steps += ("trainer.eval_steps=0", "trainer.save_steps=2", "trainer.logging_steps=1")
    steps += ("trusted_packages=[staying]", "callbacks.staying._target_=staying.Staying")
    soon = "launch.timeout=30"  # rank 0, waiting for a disk, notices only silence
    own = (*steps, soon, "output_dir=broken")
    both = [machine(node, *own, PYTHONPATH=path) for node in (0, 1)]
    bench.wait_for("staying", both[1])
    kill([psutil.Process(both[1].pid), *ranks_of(both[1].pid)])
    code, _, err = finished(both[0])
    assert code == 3
    assert err.endswith("; no heartbeat from rank 1\n") and err.count("error: ") == 1
    for run in ("broken", "whole"):
        code, _, err = finished(bench.start(*steps, f"output_dir={run}", PYTHONPATH=path))
        assert code == 0, err
    broken, whole = bench.weights("broken"), bench.weights("whole")
    assert (broken - whole).norm() <= 1e-5 * whole.norm()
    rows = [(bench.folder / run / "metrics.jsonl").read_text() for run in ("broken", "whole")]
    seen = [[json.loads(row)["samples"] for row in text.splitlines()] for text in rows]
    assert seen[0] == seen[1]


@pytest.mark.slow
def test_a_machine_alone_says_who_is_missing(
    bench: Bench, machine: Callable[..., Any], port: int
) -> None:
    alone = [machine(node, *SHORT, "output_dir=lonely", "launch.timeout=1") for node in (1,)]
    code, _, err = finished(alone[0])
    assert code == 3
    assert err.startswith(f"error: launch.rendezvous: nobody at 127.0.0.1:{port} within 1 s")
    code, _, err = finished(machine(0, *SHORT, "output_dir=lonely", "launch.timeout=1"))
    assert code == 3
    assert err.startswith("error: launch: node_rank 1 of 2 did not arrive within 1 s")
    assert not (bench.folder / "lonely").exists()


# --- sweeps ---


@pytest.mark.slow
def test_a_sweep_of_many_processes_ends_with_a_table(bench: Bench) -> None:
    sweep = ("-m", "output_dir=sweep", "recipe.label=label,absent", TWO)
    code, out, err = finished(bench.start(*SHORT, *sweep))
    assert code == 2, err
    table = out[out.index("recipe.label  status") :].splitlines()
    assert table[1].split()[:2] == ["label", "done"]
    assert table[2].split()[:3] == ["absent", "wrong", "input"]
    assert "best        sweep/label=label (eval_accuracy" in out
    assert torch.equal(bench.weights("sweep/label=label"), bench.weights("two"))
