"""Writes the README's rows of model families and recipes from the files that define them.

python docs/list_parts.py
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = {
    "language_distillation": "distillation",
    "reward_modelling": "preference",
    "unpaired_preference": "preference",
}
"""Recipes whose page in docs/tasks has another name."""


def with_parts(text: str) -> str:
    """The README's text with today's families and recipes."""
    families = ", ".join(f"`{name}`" for name in _names("trainer/models/families", "py"))
    recipes = ", ".join(_linked(name) for name in _names("configs/recipe", "yaml"))
    families += "; [others](docs/models.md) with the extra `transformers`; GGUF files"
    text = re.sub(r"(?m)^\| model families \| .*", rf"| model families | {families} |", text)
    return re.sub(r"(?m)^\| recipes \| .*", rf"| recipes | {recipes} |", text)


def _names(folder: str, ending: str) -> list[str]:
    names = (path.stem for path in (ROOT / folder).glob(f"*.{ending}"))
    return sorted(name for name in names if name != "__init__")


def _linked(recipe: str) -> str:
    page = f"docs/tasks/{PAGES.get(recipe, recipe)}.md"
    return f"[`{recipe}`]({page})" if (ROOT / page).exists() else f"`{recipe}`"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_parts(readme.read_text(encoding="utf-8")), encoding="utf-8")
