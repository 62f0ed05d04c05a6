"""The files of docs/clusters: parsed, linted, and run as far as one machine can.

Tests that need ray or skypilot are skipped without these packages; the results of running them in
environments of their own are in benchmarks/results/2026-11-26-clusters.md.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.jobs.conftest import DATA, tiny, write_tables  # noqa: F401 (a fixture)
from trainer.config.command import parse
from trainer.config.composing import compose_run
from trainer.runs.run import Run

SHORT = ("trainer.max_steps=2", "trainer.eval_steps=0", "trainer.report=false")


@pytest.fixture(scope="module")
def clusters(repository: Path) -> Path:
    return repository / "docs" / "clusters"


def stub(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


def run_script(script: str, folder: Path, *arguments: str, **variables: str) -> Any:
    """Run a bash script with the programs in `folder` before all others."""
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **variables}
    command = ["bash", "-euc", script, "script", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)


def composed(arguments: list[str]) -> Run:
    """The run of a command line of launch.py."""
    return compose_run(parse(arguments))


def test_every_file_has_a_page_that_says_how_it_was_checked(clusters: Path) -> None:
    pages = {page.stem: page.read_text() for page in clusters.glob("*.md")}
    for file in clusters.iterdir():
        if file.is_file() and file.suffix != ".md":
            (page,) = [text for text in pages.values() if f"]({file.name})" in text]
            assert "## Checked" in page, file.name


@pytest.mark.parametrize("code", [0, 2, 143])
def test_the_batch_script_requeues_a_stopped_run_alone(
    clusters: Path, tmp_path: Path, code: int
) -> None:
    stub(tmp_path, "srun", f'echo "$@" >args; echo "$TEMPERING_SECRET" >secret; exit {code}')
    stub(tmp_path, "scontrol", 'echo "$@" >control')
    stub(tmp_path, "sleep", "")
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "x", "SLURM_SUBMIT_DIR": str(tmp_path)}
    script = (clusters / "slurm.sbatch").read_text().replace("set -e", "")
    found = run_script(script, tmp_path, "model.path=a b", **slurm)
    assert found.returncode == code, found.stderr
    requeued = tmp_path / "control"
    assert requeued.exists() == (code == 143)
    assert code != 143 or requeued.read_text() == "requeue 7\n"
    assert re.fullmatch("[0-9a-f]{64}\n", (tmp_path / "secret").read_text())
    words = (tmp_path / "args").read_text().split()
    assert words[:3] == ["--kill-on-bad-exit=1", "python", "launch.py"]
    assert composed(words[3:4]).output_dir == Path("runs/x-7")


def test_the_manifest_of_kubernetes_names_a_run_and_what_torchrun_needs(clusters: Path) -> None:
    job = yaml.safe_load((clusters / "kubernetes.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["torchrun", "-m", "tempering"]
    run = composed(container["args"])
    mounts = [each["mountPath"] for each in container["volumeMounts"]]
    for path in (str(run.output_dir), str(run.model.path), str(run.dataset.train)):
        assert any(path.startswith(mount) for mount in mounts), path
    volumes = {each["name"] for each in pod["volumes"]}
    assert {each["name"] for each in container["volumeMounts"]} == volumes
    assert pod["securityContext"]["runAsNonRoot"]
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert gpus == job["spec"]["nprocPerNode"]


def test_the_manifest_of_kubernetes_has_no_key_that_kubeflow_does_not_know(clusters: Path) -> None:
    training = pytest.importorskip("kubeflow.training.api_client")
    job = yaml.safe_load((clusters / "kubernetes.yaml").read_text())
    client = training.ApiClient()

    def lost(value: Mapping[str, Any]) -> list[str]:
        """The keys that are lost on the way through the classes of Kubeflow and Kubernetes."""
        answer = type("Answer", (), {"data": json.dumps(value)})()
        read = client.deserialize(answer, "KubeflowOrgV1PyTorchJob")
        return list(_missing(value, client.sanitize_for_serialization(read)))

    assert lost(job) == []
    job["spec"]["elasticPolicy"]["maxRestart"] = 3
    assert lost(job) == [".spec.elasticPolicy.maxRestart"]


def _missing(value: Any, other: Any, where: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if not isinstance(other, Mapping) or key not in other:
                yield f"{where}.{key}"
            else:
                yield from _missing(entry, other[key], f"{where}.{key}")
    elif isinstance(value, list):
        for number, (one, two) in enumerate(zip(value, other, strict=True)):
            yield from _missing(one, two, f"{where}[{number}]")
    elif value != other:
        yield where


def test_the_commands_of_skypilot_start_a_run_on_every_machine(
    clusters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = yaml.safe_load((clusters / "skypilot.yaml").read_text())
    extras = set(re.findall(r"\[([\w,]+)\]", task["setup"]))
    assert extras <= extras_of(clusters)
    stub(tmp_path, "python", 'printf "%s\\n" "$@" >args')
    variables = {
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NUM_GPUS_PER_NODE": "8",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_TASK_ID": "sky-1",
    }
    found = run_script(task["run"], tmp_path, **variables, **task["envs"])
    assert found.returncode == 0, found.stderr
    program, *arguments = (tmp_path / "args").read_text().splitlines()
    launch = composed(arguments).launch
    assert program == "launch.py" and launch.meeting_point == ("10.0.0.1", 29500)
    assert (launch.num_nodes, launch.node_rank, launch.num_processes) == (2, 1, 8)


def test_skypilot_reads_its_file(clusters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sky = pytest.importorskip("sky")
    monkeypatch.chdir(clusters.parents[1])
    task = sky.Task.from_yaml(str(clusters / "skypilot.yaml"))
    assert task.num_nodes == 2
    assert {name for each in task.resources for name in each.accelerators} == {"H100"}


def extras_of(clusters: Path) -> set[str]:
    project = tomllib.loads((clusters.parents[1] / "pyproject.toml").read_text())["project"]
    return set(project["optional-dependencies"])


def test_the_dockerfile_installs_what_exists_and_runs_without_privileges(clusters: Path) -> None:
    text = (clusters / "Dockerfile").read_text()
    lines = [line.split() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    last = {words[0]: words[1:] for words in lines}
    assert int(last["USER"][0]) > 0 and json.loads(last["ENTRYPOINT"][0]) == ["tempering"]
    for extras in re.findall(r"\.\[([\w,]+)\]", text):
        assert set(extras.split(",")) <= extras_of(clusters)
    assert "VOLUME /runs" in text and "secret" not in text.lower() and "token" not in text.lower()
    ignored = (clusters / "Dockerfile.dockerignore").read_text().split("\n")
    assert {".git", "**/.env"} <= set(ignored)


def test_linters_find_nothing(clusters: Path) -> None:
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for linter, file in (("hadolint", "Dockerfile"), ("shellcheck", "slurm.sbatch")):
        program = shutil.which(linter, path=folders)
        if program is None:
            pytest.skip(f"{linter} is not installed")
        found = subprocess.run([program, clusters / file], capture_output=True, text=True)
        assert found.returncode == 0, found.stdout


@pytest.mark.slow
@pytest.mark.parametrize("file", ["submitit_run.py", "ray_train.py"])
def test_a_python_file_runs_a_training_on_this_machine(
    clusters: Path,
    tiny: Path,  # noqa: F811
    tmp_path: Path,
    file: str,
) -> None:
    package = file.partition("_")[0]
    pytest.importorskip(package)
    write_tables(tmp_path)
    first = ["2"] if package == "ray" else []
    command = [sys.executable, str(clusters / file), *first, *SHORT, *DATA]
    data = [f"{word}".replace("=", f"={tmp_path}/") for word in DATA]
    command = [*command[: -len(DATA)], *data, f"model.path={tiny}", f"output_dir={tmp_path}/run"]
    environment = {
        **{name: v for name, v in os.environ.items() if not name.startswith("SLURM_")},
        "CLUSTER": "local",
        "PYTHONPATH": str(clusters.parents[1]),
        "TEMPERING_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert json.loads((tmp_path / "run" / "results.json").read_text())["steps"] == 2
    assert (tmp_path / "run" / "rank-1.log").exists() == (package == "ray")
