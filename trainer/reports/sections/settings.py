"""Settings: shows the settings that differ from their defaults, and all settings."""

import json

from trainer.reports.markup import Markup, element, folded, section, shortened, texts_table
from trainer.reports.run_record import RunRecord
from trainer.reports.settings_defaults import flattened

LONGEST_VALUE = 200
NOT_CHANGES = ("run_name", "output_dir", "job")
"""Settings that name a run but do not affect training."""


def settings(record: RunRecord) -> Markup | str:
    """The section: the settings that differ from their defaults, and then all settings."""
    values = flattened(record.config)
    defaults = record.facts.defaults if record.facts else {}
    if not values:
        return ""
    changed = {
        key: value
        for key, value in values.items()
        if key not in NOT_CHANGES and not (key in defaults and same(defaults[key], value))
    }
    rows = [
        (code(key), shown(values[key]), shown(defaults[key]) if key in defaults else "–")
        for key in changed
    ]
    every = [(code(key), shown(value)) for key, value in values.items()]
    return section(
        "Settings",
        texts_table(("setting", "value", "default"), rows, "settings that differ"),
        folded(f"All {len(every)} settings", texts_table(("setting", "value"), every, "settings")),
        note="These settings differ from their defaults. A dash means that there is no default.",
    )


def same(one: object, other: object) -> bool:
    """Whether two values mean the same setting, such as 1 and 1.0."""
    return bool(one == other)


def code(text: str) -> Markup:
    """Format a text as code."""
    return element("code", text)


def shown(value: object) -> str:
    """A value in the notation of YAML and the command line, on one line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return shortened(text, LONGEST_VALUE)
