"""Runs tempering on a Ray cluster with Ray Train.

    python docs/clusters/ray_train.py 16 output_dir=/shared/a ...

The first argument is the number of workers, the others are those of launch.py. Ray Train places
the workers and restarts all of them after a failure; the run continues from its newest checkpoint.
"""

import os
import secrets
import socket
import subprocess
import sys

import ray
from ray import train
from ray.train import collective
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

STOPPED = 143
"""The exit code of a run that was stopped and has saved a checkpoint."""


def run_rank(config: dict[str, list[str]]) -> None:
    """Run one rank as a separate process, which Ray's signals and threads do not disturb."""
    context = train.get_context()
    with socket.socket() as free:
        free.bind(("", 0))
        meeting = (ray.util.get_node_ip_address(), free.getsockname()[1], secrets.token_hex(32))
    address, port, secret = collective.broadcast_from_rank_zero(meeting)
    place = {
        "RANK": context.get_world_rank(),
        "WORLD_SIZE": context.get_world_size(),
        "LOCAL_RANK": context.get_local_rank(),
        "LOCAL_WORLD_SIZE": context.get_local_world_size(),
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
        "TEMPERING_SECRET": secret,
    }
    environment = {**os.environ, **{name: str(value) for name, value in place.items()}}
    command = [sys.executable, "-m", "tempering", *config["arguments"]]
    code = subprocess.run(command, env=environment).returncode
    if code not in (0, STOPPED):
        raise RuntimeError(f"rank {context.get_world_rank()}: exit code {code}")


def main() -> None:
    """Start the workers. If the cluster has GPUs, each worker gets one."""
    workers, *arguments = sys.argv[1:]
    ray.init(ignore_reinit_error=True)
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    trainer = DataParallelTrainer(
        run_rank,
        train_loop_config={"arguments": arguments},
        scaling_config=train.ScalingConfig(num_workers=int(workers), use_gpu=has_gpus),
        run_config=train.RunConfig(failure_config=train.FailureConfig(max_failures=10)),
    )
    trainer.fit()


if __name__ == "__main__":
    main()
