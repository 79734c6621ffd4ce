"""A unit for systemd's user manager, so that the board comes back after a reboot."""

from __future__ import annotations

import os
import sys
from getpass import getuser
from pathlib import Path

from regraft.board.state import PID, Asked, Place, private

ENVIRONMENT = "environment"
"""File in the state folder, for its owner only: what the unit must not say where others read it."""

CARRIED = (
    "REGRAFT_CACHE_DIR", "REGRAFT_DATABASE_URL", "REGRAFT_ALLOWED_HOSTS", "XDG_STATE_HOME", "XDG_CACHE_HOME",
    "PYTHONPATH",
)  # fmt: skip
"""Variables of the shell that the user manager does not know."""


def unit_name(place: Place) -> str:
    """One unit for each runs folder."""
    return f"regraft-{place.folder.name}.service"


def unit_path(place: Place) -> Path:
    """Where the user manager looks for it."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "systemd" / "user" / unit_name(place)


def unit_text(asked: Asked, place: Place, *, tensorboard: bool | None, token: bool | None) -> str:
    """The unit: it starts as a person would, with `regraft up`, and counts as started when the parts answer.

    Args:
        asked: what is to come up.
        place: where it is remembered.
        tensorboard: as it was given to `daemon.ask`.
        token: as it was given to `daemon.ask`.
    """
    python = [sys.executable, "-P", "-m", "regraft"]
    runs = ["--runs-dir", asked.runs_dir]
    words = [*python, "up", *([asked.data] if asked.data else []), *runs, "--cache-dir", asked.cache_dir]
    words += ["--host", asked.host, *(["--port", str(asked.port)] if asked.port is not None else [])]
    words += {None: [], True: ["--tensorboard"], False: ["--no-tensorboard"]}[tensorboard]
    words += {None: [], True: ["--token"], False: ["--no-token"]}[token]
    return f"""[Unit]
Description=regraft: board and TensorBoard over {_plain(asked.runs_dir)}
After=network.target

[Service]
Type=forking
PIDFile={_plain(str(place.folder / PID))}
WorkingDirectory={_plain(str(Path.cwd()))}
EnvironmentFile=-{_plain(str(place.folder / ENVIRONMENT))}
ExecStart={_line(words)}
ExecStop={_line([*python, "down", *runs])}
Restart=on-failure
RestartSec=10
TimeoutStartSec=180

[Install]
WantedBy=default.target
"""


def install(asked: Asked, place: Place, *, tensorboard: bool | None, token: bool | None) -> Path:
    """Write the unit and its environment; it is not started. Returns the unit's path."""
    place.make()
    values = {name: os.environ[name] for name in CARRIED if os.environ.get(name)}
    if asked.database is not None:  # may hold a password
        values["REGRAFT_DATABASE_URL"] = asked.database
    with private(place.folder / ENVIRONMENT) as aside:
        aside.write_text("".join(f"{name}={_quoted(value)}\n" for name, value in values.items()), "utf-8")
    path = unit_path(place)
    with private(path) as aside:
        aside.write_text(unit_text(asked, place, tensorboard=tensorboard, token=token), "utf-8")
    return path


def explained(place: Place) -> str:
    """What to do with the unit."""
    name = unit_name(place)
    return f"""{unit_path(place)} was written. Start it now and with every boot:

  systemctl --user daemon-reload
  systemctl --user enable --now {name}
  loginctl enable-linger {getuser()}

The last line lets your user manager run while you are not logged in; without it the board ends with your last session,
and comes back with the next one. regraft status, logs and down work as ever; for good: systemctl --user disable --now
{name}"""


def _line(words: list[str]) -> str:
    return " ".join(_quoted(_plain(word).replace("$", "$$")) for word in words)


def _plain(text: str) -> str:
    return text.replace("%", "%%")  # the rest of a line of a unit knows no other escapes than these


def _quoted(text: str) -> str:
    if text and all(letter.isalnum() or letter in "/._-:=@%+," for letter in text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
