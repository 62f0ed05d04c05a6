"""The lowest accepted versions are those that `.ci/run` tests."""

import re
import tomllib
from pathlib import Path

from packaging.version import Version


def test_the_lowest_versions_are_those_that_are_tested(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    given = [*project["dependencies"], *optional["gguf"], *optional["test"][1:]]
    accepted = dict(re.findall(r"^([\w-]+)>=([\d.]+)", "\n".join(given), re.M))
    text = (repository / "constraints-lowest.txt").read_text()
    tested = dict(re.findall(r"^([\w-]+)==([\d.]+)$", text, re.M))
    core = re.findall(r"^([\w-]+)", "\n".join(project["dependencies"]), re.M)
    assert set(core) <= tested.keys()
    for name, lowest in accepted.items():
        if name in tested:
            assert Version(tested[name]) == Version(lowest), name
