"""Parts are found by name only here, in trusted packages and in installed packages."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer import registry, trust
from trainer.errors import InputError
from trainer.metrics.named import metrics_of
from trainer.models.family import find_family, native_families
from trainer.registry import CALLBACKS, FAMILIES, METRICS, RECIPES

RECIPE = """
import builtins
from dataclasses import dataclass
from trainer.tasks.recipe import Recipe

builtins.imported_for_test = getattr(builtins, "imported_for_test", []) + [__name__]

@dataclass(frozen=True)
class {name}(Recipe):
    size: int = 1
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes importable packages whose modules leave a trace when they are imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("builtins.imported_for_test", [], raising=False)
    before = set(sys.modules)

    def write(module: str, text: str) -> None:
        file = tmp_path / f"{module.replace('.', '/')}.py"
        for folder in file.parents:
            if folder == tmp_path:
                break
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "__init__.py").touch()
        file.write_text(text)

    yield write
    for name in set(sys.modules) - before:
        if name.startswith(("mine", "yours")):
            del sys.modules[name]


def installed(folder: Path, distribution: str, group: str, *points: str) -> None:
    """The metadata of an installed distribution."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n" + "\n".join(points) + "\n")
    registry._installed.cache_clear()


def imported() -> list[str]:
    import builtins

    return builtins.imported_for_test  # type: ignore[attr-defined]


def refusal(kind: registry.Kind, name: object) -> str:
    with pytest.raises(InputError) as caught:
        registry.find(kind, name, "here")
    return str(caught.value)


def test_this_projects_parts() -> None:
    assert registry.find(RECIPES, "causal_lm", "here").__name__ == "CausalLM"
    assert registry.find(CALLBACKS, "early_stopping", "here").__name__ == "EarlyStopping"
    assert registry.find(METRICS, "accuracy", "here").__name__ == "Accuracy"
    assert find_family("xlm-roberta").model_type == "xlm-roberta"
    assert "bert" in native_families()
    line = refusal(RECIPES, "causal_ml")
    assert line.startswith(
        "here: found 'causal_ml'; accepted: causal_lm, distillation, instruction, "
    )
    assert "did you mean 'causal_lm'?" in line
    assert "trusted_packages=[...] adds recipes of other packages" in refusal(RECIPES, "x")
    for name in (None, 3, "../causal_lm", "callback", ""):
        assert "found" in refusal(CALLBACKS, name)


def test_a_trusted_package_adds_parts_and_another_is_never_imported(
    package: Callable[..., None],
) -> None:
    package("mine.recipes.pictures", RECIPE.format(name="Pictures"))
    package("yours.recipes.sounds", RECIPE.format(name="Sounds"))
    assert "found 'pictures'" in refusal(RECIPES, "pictures") and not imported()
    trust("mine")
    found = registry.find(RECIPES, "pictures", "here")
    assert found.__name__ == "Pictures" and imported() == ["mine.recipes.pictures"]
    line = refusal(RECIPES, "sounds")
    assert "pictures (mine)" in line and imported() == ["mine.recipes.pictures"]
    assert not any(name.startswith("yours") for name in sys.modules)


def test_an_installed_part_is_imported_where_its_name_is_asked_for(
    package: Callable[..., None], tmp_path: Path
) -> None:
    package("mine.recipes.pictures", RECIPE.format(name="Pictures"))
    package("mine.recipes.sounds", RECIPE.format(name="Sounds"))
    points = ("pictures = mine.recipes.pictures:Pictures", "sounds = mine.recipes.sounds")
    installed(tmp_path, "mine-dist", "tempering.recipes", *points)
    line = refusal(RECIPES, "films")
    assert "pictures (installed: mine-dist), sounds (installed: mine-dist)" in line
    assert not imported()
    assert registry.find(RECIPES, "sounds", "here").__name__ == "Sounds"
    assert imported() == ["mine.recipes.sounds"]
    assert registry.is_installed(RECIPES, "mine.recipes.pictures.Pictures")
    assert registry.is_installed(RECIPES, "mine.recipes.sounds.Sounds")
    assert not registry.is_installed(RECIPES, "mine.recipes.pictures.Other")
    trust("mine")  # the same modules, found in two ways, are one part
    assert registry.find(RECIPES, "pictures", "here").__name__ == "Pictures"


def test_a_name_that_exists_twice_is_refused(package: Callable[..., None], tmp_path: Path) -> None:
    package("mine.families.bert", "FAMILY = None\n")
    package("yours.families.bert", "FAMILY = None\n")
    trust("mine")
    with pytest.raises(InputError) as caught:
        find_family("bert")
    line = "trainer.models.families.bert (this package) and mine.families.bert (mine)"
    assert line in str(caught.value)
    assert find_family("gpt2").model_type == "gpt2"
    registry._trusted.clear()
    installed(tmp_path, "yours", "tempering.families", "bert = yours.families.bert:FAMILY")
    assert "yours.families.bert (installed: yours)" in refusal(FAMILIES, "bert")
    assert not imported()


def test_a_part_must_define_what_its_kind_needs(package: Callable[..., None]) -> None:
    package("mine.families.empty", "")
    package("mine.recipes.empty_one", "")
    trust("mine")
    assert "mine.families.empty (mine): found no FAMILY" in refusal(FAMILIES, "empty")
    assert "accepted: a class EmptyOne" in refusal(RECIPES, "empty_one")


def test_only_packages_that_exist_can_be_trusted() -> None:
    for name, said in (("minee", "no module 'minee'"), ("../x", "'../x'"), ("a..b", "'a..b'")):
        with pytest.raises(InputError, match=r"^trusted_packages: ") as caught:
            trust(name)
        assert said in str(caught.value)
    assert registry.trusted() == ()


def test_the_package_to_trust_for_a_class() -> None:
    assert registry.package_of("mine.kit.recipes.pictures.Pictures") == "mine.kit"
    assert registry.package_of("mine.recipes.deep.pictures.Pictures") == "mine"
    assert registry.package_of("kitchen.Soup") == "kitchen"


AVERAGED = """
from dataclasses import dataclass
from trainer.metrics.metric import Metric

@dataclass(frozen=True)
class Purity(Metric):
    average: str = "macro"

    def names(self):
        return (f"purity_{self.average}",)

    def compute(self, predictions, references):
        return {self.names()[0]: 1.0}
"""


def test_a_metric_of_a_package_is_found_with_its_average(package: Callable[..., None]) -> None:
    """Like `f1_micro`; metrics without averages and unknown names are refused."""
    package("mine.metrics.purity", AVERAGED)
    trust("mine")
    found = metrics_of(["purity", "purity_micro"])
    assert {name: vars(metric)["average"] for name, metric in found.items()} == {
        "purity_macro": "macro",
        "purity_micro": "micro",
    }
    for wrong in ("purty_micro", "accuracy_micro"):
        with pytest.raises(InputError, match=f"metrics: found '{wrong}'"):
            metrics_of(wrong)
