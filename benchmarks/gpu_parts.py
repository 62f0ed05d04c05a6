"""The parts of the GPU check that test whether numbers are right; each prints rows of a table.

    python benchmarks/gpu_parts.py masks [--cpu]

`--cpu` runs the same code on a CPU. Exit code 5 means that a part has nothing to check.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from trainer.callbacks.callback import Callback

CPU = torch.device("cpu")


def row(what: str, found: Any) -> None:
    """Print one row of the table."""
    print("ROW " + json.dumps([what, found]), flush=True)


def skip(reason: str) -> None:
    """End the process, since there is nothing to check."""
    row("skipped", reason)
    sys.exit(5)


def check(what: str, holds: bool, found: Any) -> None:
    """Print a row. If it does not hold, the process continues, and ends with exit code 1."""
    row(what, f"{found}{'' if holds else '  <- WRONG'}")
    WRONG.extend([what] * (not holds))


WRONG: list[str] = []
"""The names of the checks that failed."""


def device_of(cpu: bool) -> torch.device:
    """The device that this run checks."""
    if cpu:
        return CPU
    if not torch.cuda.is_available():
        sys.exit("no CUDA GPU is visible; --cpu only tests the script")
    return torch.device("cuda", 0)


# --- the parts ---


def versions(cpu: bool) -> None:
    """Print the versions of the installed packages and of the device."""
    row("Python", sys.version.split()[0])
    names = "torch triton accelerate datasets tokenizers safetensors huggingface_hub numpy pyarrow"
    for name in [*names.split(), "hydra-core", "transformers", "peft", "liger-kernel"]:
        try:
            row(name, version(name))
        except PackageNotFoundError:
            row(name, "not installed")
    row("compiler", shutil.which("cc") or shutil.which("gcc") or "none")
    device = device_of(cpu)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        row("GPU", f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB")
        row("capability", ".".join(map(str, torch.cuda.get_device_capability(device))))
        row("CUDA, cuDNN", f"{torch.version.cuda}, {torch.backends.cudnn.version()}")
        row("NCCL", ".".join(map(str, torch.cuda.nccl.version())))
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        row("driver", subprocess.run(command, capture_output=True, text=True).stdout.strip())
        row("GPUs", torch.cuda.device_count())


def masks(cpu: bool) -> None:
    """Check that dropout masks on the device and on the CPU are equal bit for bit."""
    from trainer.models.blocks.dropout import Dropout
    from trainer.models.blocks.dropout_hash import head_keys, token_keys

    device = device_of(cpu)
    tokens = torch.arange(1000)
    for numbers in (torch.float32, torch.bfloat16):
        both = []
        for place in (CPU, device):
            ids = tokens.to(place)
            keys = token_keys(7, 3, ids * 2_000_000_011, ids % 5, ids)
            dropout = Dropout(0.1)
            dropout.site = 4
            hidden = dropout.mask(torch.zeros(1000, 768, dtype=numbers, device=place), keys)
            heads = head_keys(keys.view(10, 100), 12)
            scores = torch.zeros(10, 12, 100, 100, dtype=numbers, device=place)
            both.append((hidden.cpu(), dropout.mask(scores, heads).cpu()))
        for name, one, other in zip(("hidden", "attention"), *both, strict=True):
            share = f"{one.float().mean():.4f} kept"
            check(f"{name} masks, {numbers}", torch.equal(one, other), share)


def waits(cpu: bool) -> None:
    """Check how often a training step waits for the device, and print where."""
    if device_of(cpu).type == "cpu":
        skip("a CPU has no device to wait for")
    steps = 6
    for precision in ("fp32", "bf16"):
        counter = Waits(first=3, last=3 + steps)
        trained(max_steps=12, precision=precision, callbacks=(counter,))
        where = ", ".join(f"{place} x{n}" for place, n in counter.found.most_common())
        each = counter.found.total() / steps
        check(f"waits per step, {precision}", each <= 1, f"{each:g} ({where})")


@dataclass
class Waits(Callback):
    """Counts the calls that wait for the device between two steps, by torch's warnings."""

    first: int
    last: int

    def __post_init__(self) -> None:
        self.found: Counter[str] = Counter()

    def on_step_end(self, step: int, total_steps: int) -> None:
        if step == self.first:
            self.catching = warnings.catch_warnings()
            self.catching.__enter__()
            warnings.simplefilter("always")
            warnings.showwarning = self._count
            torch.cuda.set_sync_debug_mode("warn")
        elif step == self.last:
            torch.cuda.set_sync_debug_mode("default")
            self.catching.__exit__(None, None, None)

    def _count(self, message: Any, category: Any, file: str, line: int, *_: Any) -> None:
        if "synchroniz" in str(message):
            self.found[f"{Path(file).parent.name}/{Path(file).name}:{line}"] += 1


def trained(**settings: Any) -> Any:
    """Train a tiny BERT with dropout on 64 samples of different lengths; returns its Trainer."""
    from trainer.settings import TrainSettings
    from trainer.trainer import Trainer

    options = {name: settings.pop(name) for name in ("callbacks", "output_dir") if name in settings}
    values = {"global_batch_size": 16, "optimizer": "adamw", "learning_rate": 1e-3}
    values |= {"save_steps": 0, "eval_steps": 0, "logging_steps": 0, **settings}
    trainer = Trainer(
        tiny_model().float(),
        RECIPES["single_label"],
        TrainSettings(**values),
        train_dataset=ragged_table(64),
        **options,
    )
    trainer.fit()
    return trainer


def ranks(cpu: bool) -> None:
    """Compare two ranks on one device, over gloo, with one: weights after SGD in float64."""
    device_of(cpu)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = run_roles(["alone"], folder, cpu)["alone"]
        for strategy in ("ddp", "fsdp"):
            try:
                two = run_roles([strategy, strategy], folder, cpu)[strategy]
            except subprocess.CalledProcessError as error:
                check(f"two ranks, {strategy}", False, f"exit {error.returncode}")
                print(error.stderr[-3000:])
                continue
            for case, weights in two.items():
                alone, found = (torch.tensor(x, dtype=torch.float64) for x in (one[case], weights))
                far = float((found - alone).norm() / alone.norm())
                check(f"two ranks, {strategy}, {case}", far <= 1e-12, f"{far:.1e} apart")


def run_roles(roles: list[str], folder: Path, cpu: bool) -> dict[str, Any]:
    """Run one process for each role; returns {role: the results that rank 0 writes}."""
    processes = []
    for rank, role in enumerate(roles):
        command = [sys.executable, __file__, "rank", role, str(folder), *["--cpu"] * cpu]
        places = {"RANK": str(rank), "WORLD_SIZE": str(len(roles)), "LOCAL_RANK": "0"}
        places |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # asked for, but not used
        environment = {**os.environ, **(places if len(roles) > 1 else {})}
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, env=environment, stderr=pipe, text=True))
    for process in processes:
        _, errors = process.communicate()
        if process.returncode:
            for other in processes:
                other.kill()
            raise subprocess.CalledProcessError(process.returncode, "rank", stderr=errors)
    return {roles[0]: json.loads((folder / f"{roles[0]}.json").read_text())}


def rank(role: str, folder: str, cpu: bool) -> None:
    """Run one rank: train tiny models, and write their weights if it is the first rank."""
    from tests.distributed.sharded import build, flat

    if role != "alone":  # the ranks meet in a file: no port can be taken, no rank serves the others
        torch.distributed.init_process_group(
            "gloo" if cpu else "cpu:gloo,cuda:gloo",
            f"file://{Path(folder, role).absolute()}",
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
        )
    found = {}
    for head in ("sequence_classification", "causal_lm"):
        for accumulation in (1, 3):
            strategy = "ddp" if role == "alone" else role
            trainer = build(head, strategy, accumulation, max_steps=5, eval_steps=0)
            trainer.fit()
            found[f"{head}, {accumulation} micro batches"] = flat(trainer)
    if trainer.ranks.is_main:
        Path(folder, f"{role}.json").write_text(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may abort the process during a normal exit


def resume(cpu: bool) -> None:
    """Check that a killed and resumed run writes the same bytes as an uninterrupted one."""
    device_of(cpu)
    with tempfile.TemporaryDirectory() as name:
        for precision in ("fp32", "bf16"):
            run = Path(name, precision)
            command = [sys.executable, __file__, *["--cpu"] * cpu, "train", precision]
            subprocess.run([*command, str(run / "whole"), "0"], check=True)
            killed = subprocess.run([*command, str(run / "cut"), "5"])
            check(f"killed, {precision}", killed.returncode == -signal.SIGKILL, killed.returncode)
            subprocess.run([*command, str(run / "cut"), "0"], check=True)
            for file in ("model/model.safetensors", "checkpoint-9/state/optimizer.safetensors"):
                one, other = ((run / each / file).read_bytes() for each in ("whole", "cut"))
                check(f"{file}, {precision}", one == other, f"{len(one)} bytes")


@dataclass
class KillAt(Callback):
    """Kills this process after a step."""

    step: int

    def on_step_end(self, step: int, total_steps: int) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(precision: str, folder: str, kill_at: str, cpu: bool) -> None:
    """Run 9 steps with a save after every third one; the process may be killed at a step."""
    options = {"precision": precision, "max_steps": 9, "save_steps": 3, "deterministic": True}
    trained(**options, output_dir=Path(folder), callbacks=(KillAt(int(kill_at)),))


def generation(cpu: bool) -> None:
    """Compare greedy texts on the device and on the CPU; measure the speed of a 1B model."""
    from benchmarks.gpu_speed import seconds_of, sized_model
    from tests.unit.text_runs import LLAMA
    from trainer.generation.settings import GenerationSettings
    from trainer.generation.token_ids import generate_ids
    from trainer.models.auto import AutoModelForCausalLM
    from trainer.models.config import ModelConfig

    device = device_of(cpu)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(ModelConfig({**LLAMA, "vocab_size": 199})).double()
    prompts = [list(range(5, 5 + n)) for n in (3, 40, 11, 1)]
    settings = GenerationSettings(max_new_tokens=24)
    on_cpu = generate_ids(model, prompts, settings, end_ids=[])
    found = generate_ids(model.to(device), prompts, settings, end_ids=[])
    check("greedy texts as on the CPU", on_cpu == found, f"{len(found)} texts of 24 tokens")
    sampled = GenerationSettings(max_new_tokens=24, temperature=1.0, top_p=0.9)
    on_cpu = generate_ids(model.cpu(), prompts, sampled, end_ids=[])
    found = generate_ids(model.to(device), prompts, sampled, end_ids=[])
    row("sampled texts as on the CPU", f"{sum(map(list.__eq__, on_cpu, found))} of 4")
    large = sized_model("llama-1b", device, cpu, torch.bfloat16).eval()
    prompts = [list(range(5, 69))] * 16
    longer = GenerationSettings(max_new_tokens=4 if cpu else 64)
    seconds = seconds_of(lambda: generate_ids(large, prompts, longer, end_ids=[]), device)
    row("Llama-1B, 16 texts at once", f"{16 * longer.max_new_tokens / seconds:.0f} tokens/s")


def tests(cpu: bool) -> None:
    """Run the tests that need a GPU."""
    device_of(cpu)
    files = [path for path in Path("tests").rglob("test_*.py") if "mark.gpu" in path.read_text()]
    # listed by name, since other test files import packages that this machine may lack
    where = ["tests/gpu/test_all.py"] if cpu else ["-m", "gpu", *sorted(map(str, files))]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *where]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            row("failed", line.split(" ", 1)[1][:200])
    row("pytest", lines[-1] if lines else "nothing printed")
    print(done.stdout[-6000:], done.stderr[-2000:])
    WRONG.extend(["tests"] * (done.returncode not in (0, 5)))


PARTS: dict[str, Callable[..., None]] = {
    each.__name__: each
    for each in (versions, masks, waits, ranks, resume, generation, tests, rank, train)
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    PARTS[options.part](*options.arguments, cpu=options.cpu)
    sys.exit(bool(WRONG))


if __name__ == "__main__":
    main()
