"""The standard library as a data set: its rows, and that near-duplicates stay together."""

import inspect
import textwrap
from collections import Counter
from http.cookiejar import CookieJar

import pytest
from datasets import Dataset

from trainer.data.near_duplicates import near_duplicates
from trainer.data.python_stdlib import PythonStdlib
from trainer.data.rows import Splits
from trainer.errors import InputError


@pytest.fixture(scope="module")
def splits() -> Splits:
    return PythonStdlib().load()


@pytest.fixture(scope="module")
def parts(splits: Splits) -> tuple[Dataset, Dataset]:
    assert splits.train is not None
    return splits.train, splits.validation[""]


def test_the_corpus_is_large_and_has_16_packages_on_both_sides(
    parts: tuple[Dataset, Dataset],
) -> None:
    train, validation = parts
    assert train.column_names == ["source", "docstring", "name", "module", "package"]
    assert set(train["package"]) == set(validation["package"])
    assert len(set(train["package"])) == 16
    total = len(train) + len(validation)
    assert total > 4000 and 0.14 < len(validation) / total < 0.17
    assert min(Counter(train["package"]).values()) > 40
    assert not {"test", "site-packages", "ensurepip"} & set(train["package"])
    folders = {part for module in train["module"] for part in module.split(".")}
    assert not {"test", "tests", "idle_test"} & folders


def test_a_row_is_a_function_as_the_interpreter_sees_it(parts: tuple[Dataset, Dataset]) -> None:
    rows = [row for part in parts for row in part]
    found = {(row["module"], row["name"]): row for row in rows}
    method = found["http.cookiejar", "CookieJar.extract_cookies"]
    extract = CookieJar.extract_cookies
    assert method["source"] == textwrap.dedent(inspect.getsource(extract)).rstrip()
    assert method["docstring"] == inspect.getdoc(extract)
    assert method["package"] == "http"
    assert all(row["module"].split(".")[0] == row["package"] for row in rows)
    assert any(row["source"].startswith("@") for row in rows)
    assert any(row["source"].startswith("async def ") for row in rows)
    assert all("def " in row["source"] for row in rows)


def test_no_text_occurs_twice_and_near_duplicates_stay_together(
    parts: tuple[Dataset, Dataset],
) -> None:
    train, validation = (list(part["source"]) for part in parts)
    assert len(set(train + validation)) == len(train) + len(validation)
    groups = near_duplicates(train + validation)
    assert len(set(groups)) < len(groups)
    assert set(groups[: len(train)]).isdisjoint(groups[len(train) :])


def test_loading_again_gives_the_same_rows(parts: tuple[Dataset, Dataset]) -> None:
    again = PythonStdlib(columns={"source": "text"}, max_train_rows=100, max_eval_rows=50).load()
    assert again.train is not None and len(again.train) == 100
    assert len(again.validation[""]) == 50
    assert set(again.train["text"]) < set(parts[0]["source"])
    assert set(again.validation[""]["text"]) < set(parts[1]["source"])


def test_near_duplicates_are_seen_through_comments_strings_numbers_and_layout() -> None:
    first = 'def f(self, a):\n    """Doc."""\n    self.call(a, "x", 1)\n    return self.value(a)'
    layout = "def f(self,a):\n  # why\n  self.call(a, 'yy',\n    2)\n  return self.value(a)"
    documented = first.replace('"""Doc."""', "'''Other\n\n    words.'''")
    unlike = "async def g():\n    for line in file:\n        yield line.strip()"
    short = "x"
    groups = near_duplicates(
        [unlike, first, documented, short, first + "\n    # end", unlike + " "]
    )
    assert groups.tolist() == [0, 1, 1, 3, 1, 0]
    assert near_duplicates([first, layout.replace("'yy'", "'y'")])[0] == 0
    edited = first.replace('"""Doc."""', 'log("a")')
    long = "\n".join(f"    self.step_{i}(a, b)" for i in range(40))
    assert near_duplicates([first + long, edited + long]).tolist() == [0, 0]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"dataset.packages: 1; accepted: 2 or more"):
        PythonStdlib(packages=1)
    with pytest.raises(InputError, match=r"dataset.max_eval_rows: -1; accepted"):
        PythonStdlib(max_eval_rows=-1)
    with pytest.raises(InputError, match=r"no column 'sorce'.*did you mean 'source'"):
        PythonStdlib(packages=2, columns={"sorce": "text"}).load()
