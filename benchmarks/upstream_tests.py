"""Runs transformers' common tests on its classes and on ours, and compares the results.

    pip install parameterized
    python benchmarks/upstream_tests.py scratch                     # downloads the tests
    python benchmarks/upstream_tests.py scratch --source checkout   # the tests in a folder or clone

The tests of transformers' models (`ModelTesterMixin`, `TrainingTesterMixin`) and tokenizers
(`TokenizerTesterMixin`, `TokenizersBackendTesterMixin`) are copied into the folder `scratch`, never
into this repository. The tests of generation and export are used if the source has them; the source
distribution does not. Only tests that transformers' classes pass are counted. The script prints how
many of them our classes pass, and for each failed test the first line of its error.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

ABSENT = {
    "exporters/test_export.py": "ExportTesterMixin",
    "generation/test_utils.py": "GenerationTesterMixin",
}
"""Test modules that a source distribution lacks -> the class that other modules import."""
ADAPTED = {
    '.backend != "tokenizers"': ".backend is None",
    'if hasattr(config, "sliding_window"):': 'if "sliding_window" in config.to_dict():',
}
"""Code of transformers' tests -> code that works for both packages: `backend` is a name in
transformers and an object in ours, and our configs have None for entries of other families."""
INTERNAL = (
    "test_all_tensors_are_parameter_or_buffer",
    "test_added_tokens_serialization",
    "test_can_capture_specific_layers_hidden_states",
    "test_can_init_all_missing_weights",
    "test_can_set_attention_dynamically",
    "test_cannot_load_with_meta_device_context_manager",
    "test_capture_outputs_decorator",
    "test_gradient_checkpointing_enable_disable",
    "test_init_weights_can_init_buffers",
    "test_maximum_encoding_length",
    "test_model_rope_scaling_frequencies",
    "test_sliding_window_mask",
    "test_tied_head_has_a_tp_plan_entry",
    "test_tokenizer_initialization_with_conflicting_key",
    "test_tp_plan_matches_params",
    "test_training_gradient_checkpointing",
)
"""Tests of transformers' internals: decorators, layer classes, private attributes, error messages
and the name of its logger. The results are printed with and without these tests."""
CASES = Path(__file__).with_name("upstream_cases.py")
REPOSITORY = CASES.parent.parent


def main() -> None:
    options = parse()
    scratch = options.scratch.resolve()
    source = options.source or download(scratch)
    write_package(source, scratch / "upstream")
    report = scratch / "report.xml"
    run(scratch, report, options)
    compare(read(report), options.details)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("scratch", type=Path, help="a folder for transformers' test files")
    parser.add_argument("--source", type=Path, help="a folder with transformers' tests/")
    parser.add_argument("--families", help="families to test, such as Bert,Llama; default: all")
    parser.add_argument("--tokenizers", help="tokenizers to test: wordpiece, gpt2; default: both")
    parser.add_argument("--tests", help="a pytest -k expression")
    parser.add_argument("--details", action="store_true", help="list every failure of ours")
    return parser.parse_args()


def download(scratch: Path) -> Path:
    """The unpacked source distribution of the transformers that is installed."""
    found = version("transformers")
    archive = scratch / f"transformers-{found}.tar.gz"
    if not archive.is_file():
        wanted = f"transformers=={found}"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*command, "-d", str(scratch), wanted], check=True)
    with tarfile.open(archive) as packed:
        packed.extractall(scratch, filter="data")
    return scratch / f"transformers-{found}"


def write_package(source: Path, package: Path) -> None:
    """Write the tests as the package `upstream`, with an empty class for each absent module."""
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(source / "tests", package / "tests")
    for name, cls in ABSENT.items():
        file = package / "tests" / name
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"class {cls}:\n    pass\n", encoding="utf-8")
    for name in ("test_tokenization_common.py", "test_modeling_common.py"):
        text = (package / "tests" / name).read_text(encoding="utf-8")
        for original, adapted in ADAPTED.items():
            text = text.replace(original, adapted)
        (package / "tests" / name).write_text(text, encoding="utf-8")
    texts = package / "tests" / "fixtures"
    texts.mkdir(exist_ok=True)
    if not (texts / "sample_text.txt").is_file():
        (texts / "sample_text.txt").write_text("A short text.\n\nAnother one.\n", encoding="utf-8")


def run(scratch: Path, report: Path, options: argparse.Namespace) -> None:
    """Run all tests in one process. Raises SystemExit if pytest itself fails, not if tests fail."""
    paths = (scratch, REPOSITORY, os.environ.get("PYTHONPATH", ""))
    chosen = {"UPSTREAM_FAMILIES": options.families, "UPSTREAM_TOKENIZERS": options.tokenizers}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    environment = {**os.environ, **offline, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    environment |= {name: value for name, value in chosen.items() if value is not None}
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=line", "-W", "ignore"]
    command += ["-p", "no:cacheprovider", f"--junitxml={report}", "-o", "addopts=", str(CASES)]
    command += ["-k", options.tests] if options.tests else []
    output = subprocess.run(command, env=environment, cwd=scratch, capture_output=True, text=True)
    if output.returncode not in (0, 1):
        raise SystemExit(output.stdout[-4000:] + output.stderr[-4000:])


Outcomes = dict[tuple[str, str], tuple[str, str]]
"""(case, test) -> its outcome, and the first line of a failure."""


def read(report: Path) -> dict[str, Outcomes]:
    """The outcomes of each package."""
    found: dict[str, Outcomes] = {"transformers": {}, "tempering": {}}
    for case in ElementTree.parse(report).iter("testcase"):
        name, _, package = case.attrib["classname"].rpartition(".")[2].rpartition("_")
        outcome, reason = "passed", ""
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                outcome, reason = child.tag, child.attrib.get("message", "")
        first = re.sub(r"\s+", " ", reason)[:160]
        found[package][name, case.attrib["name"]] = outcome, first
    return found


def compare(found: dict[str, Outcomes], details: bool) -> None:
    """Print how many of the tests that transformers passes we pass, by case, and our failures."""
    theirs, ours = found["transformers"], found["tempering"]
    passed = [key for key, (outcome, _) in theirs.items() if outcome == "passed"]
    both = [key for key in passed if ours[key][0] == "passed"]
    for case in sorted({case for case, _ in passed}):
        tests = [key for key in passed if key[0] == case]
        print(f"{case:<12} {sum(key in both for key in tests):>4} of {len(tests)}")
    print(f"{'all':<12} {len(both):>4} of {len(passed)}  ({len(both) / len(passed):.1%})")
    public = [key for key in passed if not key[1].startswith(INTERNAL)]
    number = sum(key in both for key in public)
    share = number / max(1, len(public))
    print(f"{'behaviour':<12} {number:>4} of {len(public)}  ({share:.1%}; without INTERNAL tests)")
    missed: dict[str, Counter[str]] = {}
    for key in passed:
        if key not in both:
            missed.setdefault(key[1], Counter())[ours[key][1]] += 1
    for test, reasons in sorted(missed.items(), key=lambda item: -item[1].total()):
        print(f"{reasons.total():>3} {test}: {reasons.most_common(1)[0][0]}")
        for reason, count in reasons.most_common()[1:] if details else ():
            print(f"      {count} {reason}")


if __name__ == "__main__":
    main()
