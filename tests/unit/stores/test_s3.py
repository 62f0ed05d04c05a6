"""S3, as moto's server imitates it: files in parts, runs on a fresh disk, missing credentials."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer import hub
from trainer.data.sources import read_files
from trainer.devices.ranks import Ranks
from trainer.errors import InputError
from trainer.runs.folder import RunFolder
from trainer.stores import store
from trainer.stores.store import Store

pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")
KEYS = {"AWS_ACCESS_KEY_ID": "a-key-of-tests", "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests"}


@pytest.fixture(scope="module")
def no_settings_of_this_machine() -> Iterator[None]:
    """Without the variables and files in which credentials, profiles and addresses may be."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            patch.setenv(name, os.devnull)
        yield


@pytest.fixture(scope="module")
def server(no_settings_of_this_machine: None) -> Iterator[str]:
    """The address of a server with an empty bucket."""
    import boto3

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    url = f"http://{host}:{port}"
    names = {name.lower(): value for name, value in KEYS.items()}
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **names)
    client.create_bucket(Bucket="bucket")
    yield url
    running.stop()


@pytest.fixture(autouse=True)
def credentials(server: str, stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def test_data_and_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "WINDOW", 100)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"text": "{n}"}}\n' for n in range(100)))
    client = Store("s3://bucket/data", "here", writes=True)
    client.upload_all({"rows.jsonl": rows, "model/config.json": rows})
    client.write("model/vocab.txt", b"a")
    assert read_files("s3://bucket/data/*.jsonl", "dataset.train")["text"][-1] == "99"
    found = hub.find("s3://bucket/data/model")
    assert {path.name for path in found.iterdir()} == {"config.json", "vocab.txt"}
    client.copy("rows.jsonl", "again.jsonl")
    client.remove(["rows.jsonl", "rows.jsonl"])
    assert "again.jsonl" in client.listing() and "rows.jsonl" not in client.listing()
    assert client.read("again.jsonl", (0, 5)) == b'{"tex'  # s3fs has another second parameter


def test_a_run_goes_on_on_a_fresh_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fill: object
) -> None:
    for step in (1, 2, 3):
        monkeypatch.setenv("TEMPERING_STAGE", str(tmp_path / f"disk-{step}"))
        folder, ranks = RunFolder("s3://bucket/runs/a"), Ranks()
        with folder.opened("auto", ranks) as checkpoint:
            found = checkpoint and (checkpoint.name, (checkpoint / "word.txt").read_text())
            assert found == (None if step == 1 else (f"checkpoint-{step - 1}", f"{step - 1}"))
            folder.save_checkpoint(step, fill(step, f"{step}"), ranks=ranks, limit=2, best=None)
    names = Store("s3://bucket/runs/a", "here").listing()
    kept = sorted(name.partition("/")[0] for name in names if name.endswith("/manifest.json"))
    assert kept == ["checkpoint-2", "checkpoint-3"] and ".lock" not in names


@pytest.mark.parametrize("missing", [{}, {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}])
def test_credentials_and_buckets_that_are_missing(
    missing: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that names what is accepted, and prints no secret."""
    place, words = "s3://none-of-mine/a", "The specified bucket does not exist"
    if missing:
        place, words = "s3://bucket/a", "no credentials .*; accepted: AWS_ACCESS_KEY_ID and AWS_"
        for name in missing:
            monkeypatch.delenv(name)
    for use in (
        lambda: RunFolder(place).store.read_results(),
        lambda: hub.find(place),
        lambda: read_files(place, "dataset.train"),
    ):
        with pytest.raises(InputError, match=words) as error:
            use()
        assert "\n" not in str(error.value)
        assert not any(value in str(error.value) for value in KEYS.values())
    assert not os.path.exists("s3:")
