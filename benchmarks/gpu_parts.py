"""The parts of the GPU check that say whether the numbers are right: each prints rows of a table.

    python benchmarks/gpu_parts.py masks [--cpu]

`--cpu` takes the same way on a CPU. Exit code 5: there is nothing here that this part could check.
"""

import argparse
import json
import os
import shutil
import signal
import socket
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
    """One row of the table."""
    print("ROW " + json.dumps([what, found]), flush=True)


def skip(reason: str) -> None:
    """Leave: there is nothing to check."""
    row("skipped", reason)
    sys.exit(5)


def check(what: str, holds: bool, found: Any) -> None:
    """A row that must hold; the process goes on, and ends with exit code 1."""
    row(what, f"{found}{'' if holds else '  <- WRONG'}")
    WRONG.extend([what] * (not holds))


WRONG: list[str] = []


def device_of(cpu: bool) -> torch.device:
    """The device that this run checks."""
    if cpu:
        return CPU
    if not torch.cuda.is_available():
        sys.exit("no CUDA GPU is visible; --cpu checks the script alone")
    return torch.device("cuda", 0)


# --- the parts ---


def versions(cpu: bool) -> None:
    """What is installed."""
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
    """Dropout masks of the device and of the CPU, bit for bit."""
    from trainer.models.dropout import Dropout, head_keys, token_keys

    device = device_of(cpu)
    tokens = torch.arange(1000)
    for numbers in (torch.float32, torch.bfloat16):
        kept = []
        for place in (CPU, device):
            ids = tokens.to(place)
            keys = token_keys(7, 3, ids * 2_000_000_011, ids % 5, ids)
            dropout = Dropout(0.1)
            dropout.site = 4
            hidden = dropout.mask(torch.zeros(1000, 768, dtype=numbers, device=place), keys)
            heads = head_keys(keys.view(10, 100), 12)
            scores = torch.zeros(10, 12, 100, 100, dtype=numbers, device=place)
            kept.append((hidden.cpu(), dropout.mask(scores, heads).cpu()))
        for name, one, other in zip(("hidden", "attention"), *kept, strict=True):
            share = f"{one.float().mean():.4f} kept"
            check(f"{name} masks, {numbers}", torch.equal(one, other), share)


def waits(cpu: bool) -> None:
    """How often a training step waits for the device, and where."""
    if device_of(cpu).type == "cpu":
        skip("nothing is waited for on a CPU")
    steps = 6
    for precision in ("fp32", "bf16"):
        watch = Waits(first=3, last=3 + steps)
        trained(max_steps=12, precision=precision, callbacks=(watch,))
        where = ", ".join(f"{place} x{n}" for place, n in watch.found.most_common())
        each = watch.found.total() / steps
        check(f"waits a step, {precision}", each <= 1, f"{each:g} ({where})")


@dataclass
class Waits(Callback):
    """Counts what waits for the device between two steps, by torch's own warnings."""

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
    """A tiny BERT that has been trained, with dropout, on 64 ragged samples."""
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
    """Two ranks on one device, over gloo, against one: weights after SGD in float64."""
    device_of(cpu)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = together(["alone"], folder, cpu)["alone"]
        for strategy in ("ddp", "fsdp"):
            try:
                two = together([strategy, strategy], folder, cpu)[strategy]
            except subprocess.CalledProcessError as error:
                check(f"two ranks, {strategy}", False, f"exit {error.returncode}")
                print(error.stderr[-3000:])
                continue
            for case, weights in two.items():
                alone, found = (torch.tensor(x, dtype=torch.float64) for x in (one[case], weights))
                far = float((found - alone).norm() / alone.norm())
                check(f"two ranks, {strategy}, {case}", far <= 1e-12, f"{far:.1e} apart")


def together(roles: list[str], folder: Path, cpu: bool) -> dict[str, Any]:
    """What rank 0 of as many processes writes, by the role."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = []
    for rank, role in enumerate(roles):
        command = [sys.executable, __file__, "rank", role, str(folder), *["--cpu"] * cpu]
        places = {"RANK": str(rank), "WORLD_SIZE": str(len(roles)), "LOCAL_RANK": "0"}
        places |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **(places if len(roles) > 1 else {})}
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, env=environment, stderr=pipe, text=True))
    for process in processes:
        _, said = process.communicate()
        if process.returncode:
            for other in processes:
                other.kill()
            raise subprocess.CalledProcessError(process.returncode, "rank", stderr=said)
    return {roles[0]: json.loads((folder / f"{roles[0]}.json").read_text())}


def rank(role: str, folder: str, cpu: bool) -> None:
    """One rank: trains tiny models, and writes their weights if it is the first."""
    from tests.distributed.sharded import build, flat

    if role != "alone":
        torch.distributed.init_process_group("gloo" if cpu else "cpu:gloo,cuda:gloo")
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
    os._exit(0)  # gloo's threads may abort an orderly exit


def resume(cpu: bool) -> None:
    """A run that was killed and resumed, and one that was not: the same bytes."""
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
    """A run of 9 steps that saves after every third one, and may be killed."""
    options = {"precision": precision, "max_steps": 9, "save_steps": 3, "deterministic": True}
    trained(**options, output_dir=Path(folder), callbacks=(KillAt(int(kill_at)),))


def generation(cpu: bool) -> None:
    """Greedy texts on the device and on the CPU; how fast a 1B model writes."""
    from benchmarks.gpu_speed import seconds_of, sized_model
    from tests.unit.text_runs import LLAMA
    from trainer.generation.decoding import generate_ids
    from trainer.generation.settings import GenerationSettings
    from trainer.models.auto import AutoModelForCausalLM
    from trainer.models.config import ModelConfig

    device = device_of(cpu)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(ModelConfig({**LLAMA, "vocab_size": 199})).double()
    prompts = [list(range(5, 5 + n)) for n in (3, 40, 11, 1)]
    settings = GenerationSettings(max_new_tokens=24)
    here = generate_ids(model, prompts, settings, end_ids=[])
    there = generate_ids(model.to(device), prompts, settings, end_ids=[])
    check("greedy texts are those of the CPU", here == there, f"{len(here)} texts of 24 tokens")
    drawn = GenerationSettings(max_new_tokens=24, temperature=1.0, top_p=0.9)
    here = generate_ids(model.cpu(), prompts, drawn, end_ids=[])
    there = generate_ids(model.to(device), prompts, drawn, end_ids=[])
    row("drawn texts that are those of the CPU", f"{sum(map(list.__eq__, here, there))} of 4")
    large = sized_model("llama-1b", device, cpu, torch.bfloat16).eval()
    prompts = [list(range(5, 69))] * 16
    longer = GenerationSettings(max_new_tokens=4 if cpu else 64)
    seconds = seconds_of(lambda: generate_ids(large, prompts, longer, end_ids=[]), device)
    row("Llama-1B, 16 texts at once", f"{16 * longer.max_new_tokens / seconds:.0f} tokens/s")


def tests(cpu: bool) -> None:
    """The tests that need a GPU."""
    device_of(cpu)
    files = [path for path in Path("tests").rglob("test_*.py") if "mark.gpu" in path.read_text()]
    # by name: the other files import packages that a machine with a GPU may lack
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
