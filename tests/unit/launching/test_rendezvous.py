"""Processes that find each other through a store, and the failure reports that they leave in it."""

import errno
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.ports import reserved_port
from trainer.errors import EnvironmentFault, InputError
from trainer.launching import failure_report, launcher, rendezvous, team
from trainer.launching.sealed_store import SECRET, SealedStore
from trainer.launching.team import Team, assemble_team
from trainer.runs.run import LaunchSettings


@pytest.fixture
def taken() -> Iterator[int]:
    """A port in use."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.fixture
def free() -> Iterator[int]:
    """A free port."""
    with reserved_port() as port:
        yield port


def test_a_port_in_use_is_refused(taken: int) -> None:
    with pytest.raises(InputError, match=f"here: port {taken} of this machine is in use"):
        rendezvous.open_store("127.0.0.1", taken, 60, "here")


def test_a_short_timeout_is_for_the_other_processes() -> None:
    """The connection to a store of this process may take longer on a busy machine."""
    store = rendezvous.open_store("127.0.0.1", 0, 1e-3, "here")
    assert store.timeout == timedelta(seconds=1e-3)


def test_a_host_name_may_have_an_address_of_a_family_that_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without_ipv6(family: int, *arguments: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return usual(family, *arguments)

    usual, kind = socket.socket, socket.SOCK_STREAM
    found = [
        (socket.AF_INET6, kind, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, kind, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(rendezvous, "_resolved", lambda address, port: found)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", without_ipv6)
        listening = rendezvous._listen("localhost", 0, "here")
    with listening:
        assert listening.getsockname()[0] == "127.0.0.1" and not caplog.messages


def test_nobody_there(free: int) -> None:
    with pytest.raises(EnvironmentFault, match=f"nobody at 127.0.0.1:{free} within 0.3 s"):
        rendezvous.connect("127.0.0.1", free, 0.3, "here")


def test_who_is_missing_is_named() -> None:
    store = SealedStore(rendezvous.open_store("127.0.0.1", 0, 60, "here"))
    names = ["rank 0", "rank 1", "rank 2"]
    with pytest.raises(EnvironmentFault, match="rank 0, rank 2 of 3 did not arrive within 0.2 s"):
        rendezvous.exchange(store, names, "rank 1", "", 0.2)


def test_an_address_of_another_machine_is_told_at_once(
    free: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET, "ours")
    for address in ("192.0.2.1", "no-such-host.invalid"):  # RFC 5737, RFC 2606
        caplog.clear()
        with pytest.raises(EnvironmentFault, match="launch: node_rank 1 of 2 did not arrive"):
            assemble_team(LaunchSettings(1, 2, 0, f"{address}:{free}", 0.3), 1)
        assert caplog.messages == [
            f"launch.rendezvous: {address} is not an address of this machine; it listens on all "
            "addresses instead"
        ]
    caplog.clear()
    rendezvous.open_store("localhost", 0, 60, "here")
    assert not caplog.messages


def machine(launch: LaunchSettings, number: int, found: dict[int, object]) -> None:
    try:
        team = assemble_team(launch, number)
        found[launch.node_rank] = team
        team.failure_reports()
    except (InputError, EnvironmentFault) as error:
        found[launch.node_rank] = error


def test_machines_share_out_the_ranks(free: int) -> None:
    found: dict[int, object] = {}
    threads = [
        threading.Thread(
            target=machine,
            args=(LaunchSettings("auto", 2, node, f"127.0.0.1:{free}", 60), 2 + node, found),
        )
        for node in (1, 0)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    teams = [found[0], found[1]]
    assert all(isinstance(team, Team) for team in teams), found
    assert [(t.first_rank, t.local_world_size, t.world_size) for t in teams] == [  # type: ignore[attr-defined]
        (0, 2, 5),
        (2, 3, 5),
    ]


def test_a_machine_that_does_not_come(free: int) -> None:
    with pytest.raises(EnvironmentFault, match="launch: node_rank 1 of 2 did not arrive"):
        assemble_team(LaunchSettings(1, 2, 0, f"127.0.0.1:{free}", 0.3), 1)


def test_reports_are_kept_until_other_machines_have_ended_their_ranks() -> None:
    assert team.PATIENCE > launcher.GRACE + launcher.LAST_GRACE


def test_a_machine_that_could_not_wait_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    host = rendezvous.open_store("127.0.0.1", 0, 60, "here")
    teams = [Team(2, node, node, 1, 2, "127.0.0.1", SealedStore(host), "") for node in (0, 1)]
    monkeypatch.setattr(team, "PATIENCE", 0.1)
    teams[1].failure_reports()  # machine 0 has not ended
    monkeypatch.setattr(team, "PATIENCE", 60.0)
    begin = time.monotonic()
    teams[0].failure_reports()
    assert time.monotonic() - begin < 30


def test_reports_are_read_in_order_of_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = assemble_team(LaunchSettings(timeout=60), 2)
    place = {"MASTER_ADDR": alone.address, "MASTER_PORT": str(alone.port), SECRET: alone.secret}
    for rank, line in ((1, "first"), (0, "second")):
        monkeypatch.setattr(os, "environ", {**os.environ, **place, "RANK": str(rank)})
        assert failure_report.send(line, 3, is_cause=True)
    reports = alone.failure_reports()
    assert [(report.rank, report.line) for report in reports] == [(1, "first"), (0, "second")]


def test_a_report_to_a_launcher_that_is_gone(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free), "RANK": "0"}
    monkeypatch.setattr(os, "environ", {**os.environ, **place})
    monkeypatch.setattr(failure_report, "PATIENCE", 0.2)
    assert not failure_report.send("lost", 3, is_cause=True)


SLEEPS, STOPS = "time.sleep(60)", "time.sleep(rank); os._exit(143)"
FAILS = "os._exit(7) if rank == 0 else time.sleep(60)"


@pytest.mark.parametrize(
    ("work", "told", "elsewhere", "left"),
    [
        (SLEEPS, [], "failed", [None, None]),
        (SLEEPS, [signal.SIGTERM], "failed", [None, None]),
        (SLEEPS, [signal.SIGTERM], "gone", [None, None]),
        (FAILS, [], "", [7, None]),
        (FAILS, [signal.SIGTERM], "", [7, None]),
        (STOPS, [signal.SIGTERM], "", [143, 143]),
    ],
)
def test_no_machine_waits_for_what_is_gone(
    work: str,
    told: list[int],
    elsewhere: str,
    left: list[int | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launcher, "GRACE", 0.3)
    hosts = [rendezvous.open_store("127.0.0.1", 0, 60, "here")]
    store = SealedStore(rendezvous.connect("127.0.0.1", hosts[0].port, 60, "here"))
    team = Team(2, 1, 2, 2, 4, "127.0.0.1", store, "")
    script = f"import os, time; rank = int(os.environ['LOCAL_RANK']); {work}"
    ranks = launcher.LocalRanks(team, [sys.executable, "-c", script], "")
    if elsewhere == "failed":
        Team(2, 0, 0, 2, 4, "127.0.0.1", SealedStore(hosts[0]), "").report_failure()
    elif elsewhere == "gone":
        hosts.clear()
    try:
        ranks.wait(told)
        assert list(ranks.codes.values()) == left
        if not elsewhere:
            assert team.has_failed() == (left[0] == 7)
    finally:
        ranks.close()


def test_what_ranks_write_has_no_file_that_could_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    team = assemble_team(LaunchSettings(timeout=60), 2)
    script = "import os, sys; sys.stderr.write('I am ' + os.environ['RANK'] + '\\n')"
    ranks = launcher.LocalRanks(team, [sys.executable, "-c", script], "")
    assert not list(tmp_path.iterdir())
    ranks.wait([])
    assert (ranks.errors_of(0), ranks.errors_of(1)) == ("", "I am 1\n")
    ranks.close()
