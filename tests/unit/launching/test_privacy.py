"""The rendezvous is private: its addresses, and what is possible without the secret."""

import json
import os
import sys

import psutil
import pytest
from torch.distributed import PrefixStore

from tests.ports import reserved_port
from trainer.errors import EnvironmentFault
from trainer.launching import failure_report, rendezvous
from trainer.launching.end import End, conclude
from trainer.launching.sealed_store import SECRET, SealedStore
from trainer.launching.team import assemble_team
from trainer.runs.run import LaunchSettings


def listening(port: int) -> set[str]:
    """The addresses at which this process listens on a port; others may do so at other ones."""
    sockets = psutil.Process().net_connections("tcp")
    here = [each.laddr for each in sockets if each.status == psutil.CONN_LISTEN]
    return {address.ip for address in here if address.port == port}


def test_on_one_machine_it_listens_on_loopback_only() -> None:
    team = assemble_team(LaunchSettings(timeout=60), 2)
    assert listening(team.port) == {"127.0.0.1"}
    assert len(team.secret) == 64 and team.secret not in repr(team)


@pytest.mark.skipif(sys.platform != "linux", reason="others lack most loopback addresses")
def test_between_machines_it_listens_where_it_was_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = rendezvous.open_store("127.0.0.2", 0, 60, "here")
    assert listening(store.port) == {"127.0.0.2"} and not caplog.messages
    monkeypatch.delenv(SECRET, raising=False)
    with reserved_port() as port, pytest.raises(EnvironmentFault, match="did not arrive"):
        assemble_team(LaunchSettings(1, 2, 0, f"127.0.0.3:{port}", 0.2), 1)
    assert f"any process that reaches 127.0.0.3:{port} can join the run, unless all" in caplog.text


def test_messages_without_the_secret_are_refused() -> None:
    raw = rendezvous.open_store("127.0.0.1", 0, 60, "here")
    ours, theirs = SealedStore(raw, "ours"), SealedStore(raw, "theirs")
    ours.set("a", "text")
    assert ours.get("a") == b"text" and not theirs.check(["a"])
    key = raw.list_keys()[0]
    seal = bytes(raw.get(key))
    for forged in (b"text", b"", b"x" * 32 + b"text", seal + b"more"):
        raw.set(key, forged)
        with pytest.raises(EnvironmentFault, match="the message 'a' was not written with this"):
            ours.get("a")
    ours.set("b", "other")
    other = next(k for k in raw.list_keys() if k != key)
    raw.set(other, seal)  # an authentic message of another key
    with pytest.raises(EnvironmentFault, match="the message 'b'"):
        ours.multi_get(["b"])
    assert ours.within("x").for_group("g") is not None
    assert not any("group" in k or k.endswith("a") and len(k) < 64 for k in raw.list_keys())


REPORT = {"rank": 0, "line": "forged", "code": 3, "is_cause": True}


@pytest.mark.parametrize(
    "changes",
    [
        {"code": 0},
        {"code": 256},
        {"code": "3"},
        {"rank": 2},
        {"rank": -1},
        {"line": 3},
        {"line": "x" * 5000},
        {"is_cause": "yes"},
        {"more": 1},
    ],
)
def test_a_report_that_no_rank_can_have_sent(
    changes: dict, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = assemble_team(LaunchSettings(timeout=60), 2)
    failures = team.store.within("failures")
    failures.set(str(failures.add("number", 1)), json.dumps(REPORT | changes))
    place = {"MASTER_ADDR": team.address, "MASTER_PORT": str(team.port), SECRET: team.secret}
    monkeypatch.setattr(os, "environ", {**os.environ, **place, "RANK": "1"})
    assert failure_report.send("y" * 9000, 3, is_cause=True)
    reports = team.failure_reports()
    assert [(report.rank, len(report.line)) for report in reports] == [(1, 4096)]
    assert "ignored a message that no rank can have sent" in caplog.text


def test_a_forged_report_is_no_cause(caplog: pytest.LogCaptureFixture) -> None:
    team = assemble_team(LaunchSettings(timeout=60), 2)
    forger = PrefixStore("failures", rendezvous.connect(team.address, team.port, 60, "here"))
    forger.add("number", 1)
    forger.set("1", json.dumps(REPORT | {"code": 0}))
    end = conclude({0: None, 1: -9}, 2, team.failure_reports(), [])
    assert end == End("rank 1: killed by SIGKILL (out of memory?)", 3, rank_to_show=1)
