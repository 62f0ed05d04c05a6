"""torchrun's elastic restarts: an agent is killed, the other goes on alone, and one comes back."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.jobs.conftest import DATA, tiny, write_tables  # noqa: F401 (a fixture)

SETTINGS = (*DATA, "trainer.optimizer=sgd", "trainer.learning_rate=0.1", "trainer.precision=fp32")
SETTINGS += ("trainer.global_batch_size=12", "trainer.eval_steps=0", "trainer.report=false")
SETTINGS += ("trainer.max_steps=300", "trainer.save_steps=20", "trainer.logging_steps=1")


class Cluster:
    """Agents of torchrun on this machine; the first one, `a`, holds their store."""

    def __init__(self, folder: Path, model: Path, repository: Path) -> None:
        self.folder = folder
        self.command = [str(repository / "launch.py"), *SETTINGS, f"model.path={model}"]
        self.environment = {
            **{name: v for name, v in os.environ.items() if not name.startswith("SLURM_")},
            "PYTHONPATH": str(repository),
            "OMP_NUM_THREADS": "1",
            "TEMPERING_CACHE": str(folder / "cache"),
            # docs/clusters/torchrun.md: else agents of torch 2.13 cannot come back
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

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

    def wait_for_step(self, step: int, agent: subprocess.Popen[bytes]) -> int:
        while not (found := max((int(row["step"]) for row in self.rows), default=0)) > step:
            assert agent.poll() is None, self.logs()
            time.sleep(0.05)
        return found

    def wait_for_connection(self, agent: subprocess.Popen[bytes]) -> None:
        """Wait until an agent, which takes seconds to start, has reached the store."""
        process = psutil.Process(agent.pid)
        while not any(c.raddr and c.raddr.port == self.port for c in process.net_connections()):
            assert agent.poll() is None, self.logs()
            time.sleep(0.05)

    def logs(self) -> str:
        return "\n".join(log.read_text()[-2000:] for log in self.folder.glob("*.log"))

    def weights(self, run: str) -> torch.Tensor:
        tensors = load_file(self.folder / run / "model" / "model.safetensors")
        return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@contextmanager
def paused(agent: subprocess.Popen[bytes]) -> Iterator[None]:
    """Context manager: the agent's ranks take no steps."""
    ranks = psutil.Process(agent.pid).children(recursive=True)
    for rank in ranks:
        rank.suspend()
    try:
        yield
    finally:
        for rank in ranks:
            with suppress(psutil.NoSuchProcess):
                rank.resume()


def kill(agent: subprocess.Popen[bytes]) -> None:
    """End an agent and its ranks at once, like a machine that loses its power."""
    everything = [psutil.Process(agent.pid), *psutil.Process(agent.pid).children(recursive=True)]
    for process in everything:
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
    cluster = Cluster(tmp_path, tiny, repository)
    first = cluster.agent("a")
    second = cluster.agent("b")
    try:
        both = cluster.wait_for_step(20, first)
        kill(second)
        alone = cluster.wait_for_step(both + 20, first)
        with paused(first):  # on a fast machine it would end before the other agent has started
            second = cluster.agent("c")
            cluster.wait_for_connection(second)
        assert (first.wait(600), second.wait(300)) == (0, 0), cluster.logs()
    finally:
        for agent in (first, second):
            if agent.poll() is None:
                kill(agent)
    logs = {name: (tmp_path / f"{name}.log").read_text() for name in "ac"}
    assert "resume: world_size: 2 before the checkpoint, 1 from here" in logs["a"]
    assert "resume: world_size: 1 before the checkpoint, 2 from here" in logs["c"], alone
    assert [row["step"] for row in cluster.rows if "loss" in row] == list(range(1, 301))
    command = [sys.executable, *cluster.command, "output_dir=plain", "launch.num_processes=1"]
    found = subprocess.run(command, cwd=tmp_path, env=cluster.environment, capture_output=True)
    assert found.returncode == 0, found.stderr
    one, two = cluster.weights("plain"), cluster.weights("run")
    assert (one - two).norm() <= 1e-5 * one.norm()
