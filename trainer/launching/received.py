"""Received files: what the config of a run, or a model's folder, must not decide for its reader.

Trust comes from the command line, and from config folders that the user names there.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.launching.target import OWN_PACKAGES, is_inside
from trainer.launching.typed import show

GRANTS = ("trust_remote_code",)
"""Keys of a part of a config that let code of others run."""
LEAST_PROCESSES = 8
"""A received config may start so many, or one for each processor of this machine."""
ON_THE_COMMAND_LINE = "on the command line, if you trust whoever made it"


def check_received(
    config: Mapping[str, Any],
    file: Path,
    typed: Collection[str],
    deleted: Collection[str],
    trusted: Sequence[str],
) -> None:
    """Refuse trust that a received config gives to itself, and a file that it would write.

    `typed` are the keys that the user has set, `deleted` those that the user has taken out, and
    `trusted` the packages that the command line names.
    Raises InputError naming the file, the key and what to type instead.
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
        if name == "_target_":
            check_target(value, file, key, trusted)


def _check_launch(launch: Any, file: Path, typed: Collection[str]) -> None:
    """Refuse an address to meet at, and more processes than this machine is likely to bear."""
    if not isinstance(launch, Mapping):
        return
    address, number = launch.get("rendezvous"), launch.get("num_processes")
    if address is not None and "launch.rendezvous" not in typed:
        raise _refused(file, "launch.rendezvous", address, "launch.rendezvous=HOST:PORT")
    most = max(LEAST_PROCESSES, os.cpu_count() or 1)
    if isinstance(number, int) and number > most and "launch.num_processes" not in typed:
        raise _refused(file, "launch.num_processes", number, f"launch.num_processes={number}")


def check_target(target: Any, file: Path, key: str, trusted: Sequence[str]) -> None:
    """Refuse a class outside of this package and of those that the user trusts."""
    packages = (*OWN_PACKAGES, *trusted)
    if isinstance(target, str) and not is_inside(target.rpartition(".")[0], packages):
        package = target.partition(".")[0]
        raise _refused(file, key, target, f"trusted_packages=[{package}]")


def _refused(file: Path, key: str, value: Any, flag: str) -> InputError:
    return InputError(
        f"{file}: {key}: found {show(value)}, which this file may not decide; "
        f"accepted: {flag} {ON_THE_COMMAND_LINE}"
    )


def _entries(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every entry of nested mappings and lists, with its dotted key."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            dotted = f"{where}.{key}" if where else str(key)
            yield dotted, entry
            yield from _entries(entry, dotted)
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _entries(entry, f"{where}[{number}]")
