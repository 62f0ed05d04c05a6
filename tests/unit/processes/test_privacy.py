"""The rendezvous is private: where it listens, and what those without the secret can do there."""

import json
import os
from pathlib import Path

import pytest
from torch.distributed import PrefixStore

from trainer.errors import EnvironmentFault
from trainer.processes import last_words, meeting
from trainer.processes.end import End, conclude
from trainer.processes.sealed_store import SECRET, SealedStore
from trainer.processes.team import assemble_team
from trainer.run import LaunchSettings


def listening(port: int) -> set[str]:
    """The addresses, in the kernel's hexadecimal, at which this machine listens on a port."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, number = local.split(":")
            if state == "0A" and int(number, 16) == port:
                found.add(address)
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux lists its sockets there")
def test_on_one_machine_it_listens_on_loopback_only() -> None:
    team = assemble_team(LaunchSettings(timeout=5), 2)
    assert listening(team.port) == {"0100007F"}
    assert len(team.secret) == 64 and team.secret not in repr(team)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux lists its sockets there")
def test_between_machines_it_listens_where_it_was_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = meeting.host("127.0.0.2", 0, 5, "here")
    assert listening(store.port) == {"0200007F"} and not caplog.messages
    monkeypatch.delenv(SECRET, raising=False)
    with pytest.raises(EnvironmentFault, match="did not come"):
        assemble_team(LaunchSettings(1, 2, 0, "127.0.0.3:41873", 0.2), 1)
    assert "whoever reaches 127.0.0.3:41873 can take part; export TEMPERING_SECRET" in caplog.text


def test_messages_without_the_secret_are_refused() -> None:
    raw = meeting.host("127.0.0.1", 0, 5, "here")
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
    raw.set(other, seal)  # a true message, but of another key
    with pytest.raises(EnvironmentFault, match="the message 'b'"):
        ours.multi_get(["b"])
    assert ours.within("x").for_group("g") is not None
    assert not any("group" in k or k.endswith("a") and len(k) < 64 for k in raw.list_keys())


WORDS = {"rank": 0, "line": "forged", "code": 3, "is_cause": True}


@pytest.mark.parametrize(
    "said",
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
def test_words_that_no_rank_can_have_said(
    said: dict, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = assemble_team(LaunchSettings(timeout=5), 2)
    words = team.store.within("words")
    words.set(str(words.add("number", 1)), json.dumps(WORDS | said))
    place = {"MASTER_ADDR": team.address, "MASTER_PORT": str(team.port), SECRET: team.secret}
    monkeypatch.setattr(os, "environ", {**os.environ, **place, "RANK": "1"})
    assert last_words.leave("y" * 9000, 3, is_cause=True)
    heard = team.all_words()
    assert [(word.rank, len(word.line)) for word in heard] == [(1, 4096)]
    assert "last words that no rank has said" in caplog.text


def test_forged_words_are_no_cause(caplog: pytest.LogCaptureFixture) -> None:
    team = assemble_team(LaunchSettings(timeout=5), 2)
    forger = PrefixStore("words", meeting.visit(team.address, team.port, 5, "here"))
    forger.add("number", 1)
    forger.set("1", json.dumps(WORDS | {"code": 0}))
    end = conclude({0: None, 1: -9}, 2, team.all_words(), [])
    assert end == End("rank 1: killed by SIGKILL (out of memory?)", 3, show=1)
