"""The remaining host memory."""

import pytest
import torch

from trainer.devices import host_memory


def test_what_torch_keeps_page_locked_is_still_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a second save in the background would seem not to fit after a first one."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Found", (), {"available": 10}))
    monkeypatch.setattr(host_memory, "_left_in_containers", lambda: [7])
    assert host_memory.available_bytes() == 7
    kept = {"allocated_bytes.current": 64, "active_bytes.current": 16}
    monkeypatch.setattr(torch.cuda, "host_memory_stats", lambda: kept)
    assert host_memory.available_bytes() == 7 + 48
