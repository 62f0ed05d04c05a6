"""Host memory that is left."""

import pytest
import torch

from trainer import host_memory


def test_what_torch_keeps_page_locked_is_still_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a second save in the background would not fit where the first one did."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Found", (), {"available": 10}))
    monkeypatch.setattr(host_memory, "_left_in_containers", lambda: [7])
    assert host_memory.available_bytes() == 7
    kept = {"allocated_bytes.current": 64, "active_bytes.current": 16}
    monkeypatch.setattr(torch.cuda, "host_memory_stats", lambda: kept)
    assert host_memory.available_bytes() == 7 + 48
