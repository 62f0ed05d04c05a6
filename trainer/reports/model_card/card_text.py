"""The text of a model card: results, code to load the model, data, settings, limits, license."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer.rendering.figures import count, duration, epochs_passed, measure
from trainer.reports.model_card.loading_example import loading_example
from trainer.reports.model_card.metadata import Subject, metadata
from trainer.reports.result_names import by_metric, result_names
from trainer.reports.run_record import RunRecord
from trainer.reports.sections.settings import NOT_CHANGES, same
from trainer.reports.settings_defaults import flattened

FEW_SAMPLES = 50
"""Classes with fewer training samples are listed among the limits."""
MOST_CLASSES = 40
"""The maximum number of classes to list."""
LONGEST_VALUE = 120
SHOWN_SETTINGS = ("trainer.", "recipe.", "model.", "tokenizer.", "seed")
HIDDEN_SETTINGS = ("model.path", "model.sha256", "model.lora.base_name", "trainer.resume")
"""Settings that do not describe the model, or that appear elsewhere in the card."""


def model_card(subject: Subject) -> str:
    """The README.md for the model's repository, made only from the files of the run and model."""
    parts = (
        f"---\n{metadata(subject)}\n---",
        f"# {subject.name}",
        _introduction(subject),
        _section("Results", _results(subject)),
        _section("How to use it", loading_example(subject)),
        _section("Training data", _data(subject)),
        _section("Training", _training(subject)),
        _section("Limits", "\n".join(f"- {each}" for each in _limits(subject))),
        _section("Licence", _license(subject)),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _introduction(subject: Subject) -> str:
    name = f"`{subject.architecture}`" if subject.architecture else ""
    model = f"A model of the class {name}" if name else "A model"
    kind = f"An adapter for {name or 'a model'}" if subject.is_adapter else model
    base = f", fine-tuned from {_linked(subject.base.name, subject.base.hub_id)}"
    task = f" for {subject.recipe.rpartition('.')[2].replace('_', ' ')}" if subject.recipe else ""
    made = f"{kind}{base if subject.base.name else ', trained from random weights'}{task}"
    facts = subject.record.facts if subject.record else None
    lines = facts.summary.get("model", "") if facts else ""
    size = next((line for line in lines.splitlines() if "parameters" in line), "")
    return f"{made}." + (f" It has {size}." if size else "") + " Trained with tempering."


def _linked(name: str, hub_id: str | None, kind: str = "") -> str:
    return f"[{name}](https://huggingface.co/{kind}{hub_id})" if hub_id else f"`{name}`"


def _results(subject: Subject) -> str:
    record = subject.record
    metrics: Mapping[str, Any] = (record.results.get("metrics") if record else None) or {}
    names = result_names(metrics, record.sets if record else ())
    if record is None or not names:
        return ""
    sets = list(dict.fromkeys(name.set_name for name in names.values() if not name.part))
    sizes = record.facts.eval_sets if record.facts else {}
    titles = [f"{name or 'validation'}{_samples(sizes.get(name))}" for name in sets]
    rows = []
    for metric, keys in by_metric(names).items():
        values = {names[key].set_name: measure(metrics[key]) for key in keys}
        rows.append([metric, *(values.get(name, "–") for name in sets)])
    step = record.results.get("model_step")
    note = f"Measured after step {step:,}." if isinstance(step, int) else ""
    return "\n\n".join(filter(None, (note, _table(["metric", *titles], rows), _classes(record))))


def _samples(number: object) -> str:
    return f" ({number:,} samples)" if isinstance(number, int) else ""


def _classes(record: RunRecord) -> str:
    """The table of metrics by class on the first evaluation set."""
    report = record.results.get("report")
    found = report.get("classes") if isinstance(report, Mapping) else None
    if not isinstance(found, list) or not 0 < len(found) <= MOST_CLASSES:
        return ""
    rows = [
        [_cell(row["label"]), *(measure(row[key]) for key in ("precision", "recall", "f1"))]
        + [f"{row['support']:,}"]
        for row in found
    ]
    return _table(["class", "precision", "recall", "F1", "samples"], rows)


def _data(subject: Subject) -> str:
    record = subject.record
    facts = record.facts if record else None
    name = subject.data_name
    sentence = f"Trained on {_linked(name, subject.dataset, 'datasets/')}." if name else ""
    if facts is None:
        return sentence
    rows = [
        [title, f"{sum(found.counts):,}", f"{found.total:,}", f"{found.mean:.1f}"]
        + [f"{found.longest:,}"]
        for title, found in facts.lengths.items()
    ]
    sizes = _table(["set", "samples", "tokens", "mean length", "longest"], rows) if rows else ""
    classes = ""
    if facts.class_counts and len(facts.class_counts) <= MOST_CLASSES:
        listed = ", ".join(f"{_cell(k)} {v:,}" for k, v in facts.class_counts.items())
        classes = f"Training samples by class: {listed}."
    return "\n\n".join(filter(None, (sentence, sizes, classes)))


def _training(subject: Subject) -> str:
    record = subject.record
    if record is None:
        return ""
    results = record.results
    done = []
    if results.get("steps"):
        done.append(f"{results['steps']:,} steps, {epochs_passed(results['epochs'])}")
        done.append(f"{count(results['tokens'])} tokens in {duration(results['seconds'])}")
    if record.facts:
        done.append(str(record.facts.summary.get("device", "")).partition("\n")[0])
    versions = results.get("versions") or {}
    made = ", ".join(f"{name} {number}" for name, number in versions.items())
    rows = [[f"`{key}`", f"`{value}`"] for key, value in _changed_settings(record)]
    table = _table(["setting", "value"], rows) if rows else ""
    known = record.facts and record.facts.defaults
    intro = "Settings that differ from the defaults:" if known else "Settings:"
    summary = "; ".join(filter(None, done))
    return "\n\n".join(
        filter(None, (f"{summary}." if summary else "", intro if rows else "", table, made))
    )


def _changed_settings(record: RunRecord) -> Iterator[tuple[str, str]]:
    """Yield (key, value) of each changed setting; for privacy, paths are cut to their last part."""
    defaults = record.facts.defaults if record.facts else {}
    for key, value in flattened(record.config).items():
        unchanged = key in defaults and same(defaults[key], value)
        hidden = key in (*NOT_CHANGES, *HIDDEN_SETTINGS) or key.endswith("._target_")
        if key.startswith(SHOWN_SETTINGS) and not (unchanged or hidden or value in ({}, [], None)):
            text = re.sub(r"(?<![\w:/])[~/][^\s,'\"]*/", "", str(value))
            yield key, " ".join(text.split()).replace("|", "\\|").replace("`", "'")[:LONGEST_VALUE]


def _limits(subject: Subject) -> Iterator[str]:
    record = subject.record
    facts = record.facts if record else None
    if record and facts and record.results.get("metrics"):
        sets = ", ".join(
            f"{name or 'validation'}{_samples(n)}" for name, n in facts.eval_sets.items()
        )
        yield f"The results were measured on {sets} and may differ on other texts."
    else:
        yield "No evaluation of this model is known."
    length = facts.config.get("recipe", {}).get("max_length") if facts else None
    if facts and length:
        cut = facts.truncated.get("train")
        longer = f"; {cut:,} of the training samples were longer" if cut else ""
        yield f"Texts are cut to {length:,} tokens{longer}."
    if facts and facts.class_counts:
        yield f"It can only predict its {len(facts.class_counts):,} classes."
        rare = [f"{_cell(k)} ({n:,})" for k, n in facts.class_counts.items() if n < FEW_SAMPLES]
        if rare:
            yield f"Classes with few training samples: {', '.join(rare[:MOST_CLASSES])}."
    if subject.is_adapter and subject.base.name and not subject.base.hub_id:
        yield f"It needs the base model `{subject.base.name}`, which is not in this repository."
    if subject.base.name:
        yield f"The limits of {_linked(subject.base.name, subject.base.hub_id)} apply to it too."
    yield "It was not tested for bias, safety or use in decisions about people."


def _license(subject: Subject) -> str:
    if subject.license:
        return f"{subject.license}."
    stated = subject.base.license
    if stated:
        link = stated.get("license_link")
        named = stated.get("license_name") or stated["license"]
        return f"{named}, like the base model" + (f" ([text]({link}))." if link else ".")
    return "Not stated." if not subject.base.name else "Not stated; the base model's card has none."


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _cell(text: object) -> str:
    """The text, escaped for a cell of a Markdown table."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", line)
