"""The pages that walk through several commands: docs/start.md, docs/own_data.md, docs/serving.md.

Models and data are small; the commands and the files are those of the page.
"""

import json
import re
import shlex
from pathlib import Path

import pytest

import launch
from tests.distributed.test_commands import COMMAND, ONE_STEP, documented_lines
from tests.jobs.conftest import DATA, write_tables
from tests.jobs.test_serve_over_http import KEY, served
from tests.test_documents import blocks_of

pytestmark = pytest.mark.slow


def walk(page: str, tiny: Path, more: tuple[str, ...] = ()) -> None:
    """Run the page's commands in order; trainings take one step of a tiny model."""
    for line in documented_lines([page]):
        found = re.search(COMMAND, line)
        arguments = shlex.split(found[1] or "") if found else ["--version"]
        jobs = [each for each in arguments if each.startswith(("job=", "from="))]
        if not jobs or jobs == ["job=inspect"]:
            arguments += [f"model.path={tiny}", *more, *ONE_STEP]
        assert launch.main(["--help"] if "--help" in arguments else arguments) == 0, line


def test_the_first_five_minutes(alone: None, tiny: Path, repository: Path) -> None:
    """Without the quickstart's data, which take long to read; .ci/run trains on them."""
    write_tables(Path.cwd())
    walk("docs/start.md", tiny, (*DATA, "dataset.max_eval_rows=4"))
    (program,) = (t for _, kind, t in blocks_of(repository / "docs/start.md") if kind == "python")
    exec(compile(program, "docs/start.md", "exec"), {})
    assert list(Path("runs").glob("comparison-*.html"))


def test_own_data(alone: None, tiny: Path, repository: Path) -> None:
    text = (repository / "docs/own_data.md").read_text(encoding="utf-8")
    files = re.findall(r'^```csv title="([^"\n]+)"\n(.*?)^```', text, flags=re.S | re.M)
    for name, body in files:
        Path(name).write_text(body, encoding="utf-8")
    walk("docs/own_data.md", tiny)
    assert len(Path("answers.csv").read_text().splitlines()) == 3
    problems = {
        name: json.loads(Path("runs", name, "model/recipe.json").read_text())
        for name in ("reviews", "topics", "flags")
    }
    assert "single_label" in str(problems["reviews"])
    assert "multi_label" in str(problems["topics"]) and "multi_label" in str(problems["flags"])


def test_the_client_of_a_served_model(
    alone: None, tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.jobs.serving import write_chatty

    page = repository / "docs/serving.md"
    (program,) = (text for _, kind, text in blocks_of(page) if kind == "python")
    with served(write_chatty(tmp_path / "chatty"), "generation.max_new_tokens=8") as server:
        for theirs, ours in (("http://127.0.0.1:8000", server.url), ("none", KEY)):
            program = program.replace(theirs, ours)
        program = program.replace('model="runs/a/model"', 'model="m"')
        exec(compile(program, "docs/serving.md", "exec"), {})
    assert capsys.readouterr().out
