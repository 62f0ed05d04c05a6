"""torchrun's elastic restarts: an agent is killed, the other goes on alone, and one comes back."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.jobs.conftest import DATA, tiny, write_tables  # noqa: F401 (a fixture)
from tests.ports import reserved_port

SETTINGS = (*DATA, "trainer.optimizer=sgd", "trainer.learning_rate=0.1", "trainer.precision=fp32")
SETTINGS += ("trainer.global_batch_size=12", "trainer.eval_steps=0", "trainer.report=false")
SETTINGS += ("trainer.max_steps=300", "trainer.save_steps=20", "trainer.logging_steps=1")
SETTINGS += ("trusted_packages=[holding]", "callbacks.holding._target_=holding.Holding")
HOLDING = """
import os, pathlib, signal, time
from dataclasses import dataclass
from trainer.callbacks.callback import Callback

@dataclass
class Holding(Callback):
    steps: int = 0

    def on_step_end(self, step: int, total_steps: int) -> None:
        self.steps += 1
        ranks, left = os.environ.get("WORLD_SIZE"), pathlib.Path("left")
        if self.steps != 25 or ranks is None:
            return
        saved = pathlib.Path(f"run/checkpoint-{step // 20 * 20}")  # since this start
        while not saved.exists():
            time.sleep(0.05)
        if ranks == "2" and not left.exists():
            pathlib.Path("together-" + os.environ["RANK"]).mkdir(exist_ok=True)
            while not left.exists():
                time.sleep(0.05)
        if ranks == "1":
            if left.exists():
                pathlib.Path("alone").touch()
            while signal.getsignal(signal.SIGTERM).__self__.signal is None:
                time.sleep(0.05)
"""
"""Holds two ranks until one has left, and a single rank until torchrun asks it to end because
another agent has come: on no machine does the run end before, or one agent start too late."""


class Cluster:
    """Agents of torchrun on this machine; the first one, `a`, holds their store."""

    def __init__(self, folder: Path, model: Path, repository: Path, port: int) -> None:
        self.folder, self.port = folder, port
        (folder / "holding.py").write_text(HOLDING)
        self.command = [str(repository / "launch.py"), *SETTINGS, f"model.path={model}"]
        self.environment = {
            **{name: v for name, v in os.environ.items() if not name.startswith("SLURM_")},
            "PYTHONPATH": f"{repository}{os.pathsep}{folder}",
            "OMP_NUM_THREADS": "1",
            "TEMPERING_CACHE": str(folder / "cache"),
            # docs/clusters/torchrun.md: else agents of torch 2.13 cannot come back
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }

    def agent(self, name: str) -> subprocess.Popen[bytes]:
        options = ["--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-id=x"]
        options += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{self.port}"]
        options += [f"--rdzv-conf=last_call_timeout=1,is_host={int(name == 'a')}"]
        # torchrun gives rank 0 to the lowest address, and on one address to the lowest process
        # number, which is chance: here `a` has rank 0 until `c` comes and takes it
        options += [f"--local-addr=127.0.0.{'cab'.index(name) + 1}"]
        command = [sys.executable, "-m", "torch.distributed.run", *options, *self.command]
        with open(self.folder / f"{name}.log", "wb") as log:
            return subprocess.Popen(
                [*command, "output_dir=run"],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def rows(self) -> list[dict[str, float]]:
        file = self.folder / "run" / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def wait_for(self, name: str, agent: subprocess.Popen[bytes]) -> None:
        """Wait until a rank has written that it is held.

        The agent may run on without doing so, for example if the other agent ends early.
        """
        end = time.monotonic() + 600
        while not (self.folder / name).exists():
            assert agent.poll() is None and time.monotonic() < end, (name, self.logs())
            time.sleep(0.05)

    def logs(self) -> str:
        return "\n".join(log.read_text()[-2000:] for log in self.folder.glob("*.log"))

    def weights(self, run: str) -> torch.Tensor:
        tensors = load_file(self.folder / run / "model" / "model.safetensors")
        return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def kill(agent: subprocess.Popen[bytes]) -> None:
    """End an agent and its ranks at once, like a machine that loses its power."""
    everything = [psutil.Process(agent.pid), *psutil.Process(agent.pid).children(recursive=True)]
    for process in everything:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    agent.wait()


@pytest.mark.slow
def test_a_node_that_leaves_and_comes_back(
    tmp_path: Path,
    tiny: Path,  # noqa: F811
    repository: Path,
) -> None:
    """Each sample is seen once, and the weights are those of a run that nobody left."""
    write_tables(tmp_path)
    with reserved_port() as port:
        leave_and_come_back(Cluster(tmp_path, tiny, repository, port))


def leave_and_come_back(cluster: Cluster) -> None:
    first = cluster.agent("a")
    second = cluster.agent("b")
    try:
        for rank in (0, 1):
            cluster.wait_for(f"together-{rank}", first)
        kill(second)
        (cluster.folder / "left").touch()
        cluster.wait_for("alone", first)
        second = cluster.agent("c")
        assert (first.wait(600), second.wait(300)) == (0, 0), cluster.logs()
    finally:
        for agent in (first, second):
            if agent.poll() is None:
                kill(agent)
    logs = {name: (cluster.folder / f"{name}.log").read_text() for name in "ac"}
    assert "resume: world_size: 2 before the checkpoint, 1 from here" in logs["a"]
    assert "resume: world_size: 1 before the checkpoint, 2 from here" in logs["c"]
    assert [row["step"] for row in cluster.rows if "loss" in row] == list(range(1, 301))
    command = [sys.executable, *cluster.command, "output_dir=plain", "launch.num_processes=1"]
    environment = cluster.environment
    found = subprocess.run(command, cwd=cluster.folder, env=environment, capture_output=True)
    assert found.returncode == 0, found.stderr
    one, two = cluster.weights("plain"), cluster.weights("run")
    assert (one - two).norm() <= 1e-5 * one.norm()
