import time

import pytest

from regraft.models.backbones import offline_backbones
from regraft.studies import shelf


def test_offline_is_said_and_never_asks(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(shelf.socket, "create_connection", lambda *a, **k: pytest.fail("asked the network"))
    monkeypatch.setattr(shelf, "in_hub_cache", lambda name: False)
    taken = shelf.take("auto")
    assert list(taken.names) == offline_backbones()
    assert "HF_HUB_OFFLINE is set" in taken.notes[0]
    assert "convnext_tiny" in taken.notes[0]


def test_what_lies_in_the_hub_cache_is_used_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(shelf, "in_hub_cache", lambda name: name.startswith("mobilenet"))
    taken = shelf.take("auto")
    assert taken.names == ("mobilenetv4_conv_small.e2400_r224_in1k", *offline_backbones())


def test_a_reachable_hub_gives_the_whole_list(monkeypatch):
    monkeypatch.setattr(shelf, "hub_answers", lambda: (True, ""))
    monkeypatch.setattr(shelf, "in_hub_cache", lambda name: False)
    assert set(shelf.take("auto").names) >= {entry.name for entry in shelf.SHELF if "lite" not in entry.name}


def test_a_silent_network_is_given_up(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(shelf, "PROBE_SECONDS", 0.05)

    def silent(*args, **kwargs):
        time.sleep(0.2)
        raise TimeoutError

    monkeypatch.setattr(shelf.socket, "create_connection", silent)
    found, why = shelf.hub_answers()
    assert not found
    assert "cannot be reached" in why


def test_the_hub_is_asked_through_the_proxy(monkeypatch):
    asked = []

    class Open:
        def close(self):
            pass

    def connect(address, timeout):
        asked.append(address)
        return Open()

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setattr(shelf.socket, "create_connection", connect)
    assert shelf.hub_answers() == (True, "")
    assert asked == [("proxy.example", 3128)]


def test_every_entry_has_a_reason():
    assert all(entry.reason for entry in shelf.SHELF)
    assert shelf.imagenet_top1("timm/tf_efficientnet_lite0") == 75.1
