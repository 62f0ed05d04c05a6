"""Received files: checks configs and model folders that may come from somebody else.

Only the command line, and config folders that it names, can grant trust.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer import registry
from trainer.config.target import is_inside
from trainer.config.typed import show
from trainer.errors import InputError
from trainer.registry import OWN_PACKAGES

GRANTS = ("trust_remote_code",)
"""Keys that allow code from a model's folder to run."""
DESTINATIONS = (
    *("base_url", "entity", "host", "space_id", "tracking_uri", "url", "uri", "registry_uri"),
    *("server_url", "dataset_id", "bucket_id", "workspace", "artifact_location"),
)
"""Keys that control where a run's results are sent."""
LEAST_PROCESSES = 8
"""The number of processes that a received config may always start.

It may also start one for each core of this machine.
"""
REPORTING = ("callbacks.", "trainer.trackers.")
"""The sections of a config whose parts may send data to a service."""
ON_THE_COMMAND_LINE = "on the command line, if you trust whoever made it"


def check_received(
    config: Mapping[str, Any],
    file: Path,
    typed: Collection[str],
    deleted: Collection[str],
    trusted: Sequence[str],
) -> None:
    """Raise InputError for a received config that grants trust, or chooses where data are sent.

    `typed` are the keys that the user has set, `deleted` the keys that the user has removed, and
    `trusted` the packages that the command line names. The error names the file, the key, and the
    override with which the user can accept the value.
    """
    packages = config.get("trusted_packages")
    if packages and "trusted_packages" not in typed:
        flag = f"trusted_packages={show(packages)}".replace("'", "")
        raise _refused(file, "trusted_packages", packages, flag)
    output = config.get("output")
    target = output.get("file") if isinstance(output, Mapping) else output
    if target is not None and "output.file" not in typed:
        raise _refused(file, "output.file", target, "output.file=FILE")
    _check_launch(config.get("launch"), file, typed)
    for key, value in _entries(config):
        if key in typed or any(key.startswith(f"{each}.") for each in deleted):
            continue
        name = key.rpartition(".")[2]
        if name in GRANTS and value:
            raise _refused(file, key, value, f"{key}=true")
        if name in DESTINATIONS and value is not None and key.startswith(REPORTING):
            raise _refused(file, key, value, f"{key}=...")
        if name == "_target_":
            check_target(value, file, key, trusted)


def _check_launch(launch: object, file: Path, typed: Collection[str]) -> None:
    """Raise InputError for a rendezvous address, and for too many processes for this machine."""
    if not isinstance(launch, Mapping):
        return
    address, number = launch.get("rendezvous"), launch.get("num_processes")
    if address is not None and "launch.rendezvous" not in typed:
        raise _refused(file, "launch.rendezvous", address, "launch.rendezvous=HOST:PORT")
    limit = max(LEAST_PROCESSES, os.cpu_count() or 1)
    if isinstance(number, int) and number > limit and "launch.num_processes" not in typed:
        raise _refused(file, "launch.num_processes", number, f"launch.num_processes={number}")


def check_target(target: object, file: Path, key: str, trusted: Sequence[str]) -> None:
    """Raise InputError unless a class is of this project, a trusted package or an installed plugin.

    Names without dots are accepted, since they are looked up in the registry, which contains only
    such classes.
    """
    packages = (*OWN_PACKAGES, *registry.trusted(), *trusted)
    if not isinstance(target, str) or "." not in target:
        return
    installed = any(registry.is_installed(kind, target) for kind in registry.KINDS.values())
    if not installed and not is_inside(target.rpartition(".")[0], packages):
        raise _refused(file, key, target, f"trusted_packages=[{registry.package_of(target)}]")


def _refused(file: Path, key: str, value: object, flag: str) -> InputError:
    return InputError(
        f"{file}: {key}: found {show(value)}, which this file may not decide; "
        f"accepted: {flag} {ON_THE_COMMAND_LINE}"
    )


def _entries(value: object, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every entry of nested mappings and lists."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            dotted = f"{where}.{key}" if where else str(key)
            yield dotted, entry
            yield from _entries(entry, dotted)
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _entries(entry, f"{where}[{number}]")
