"""A private PostgreSQL server for the tests: its own data folder, a Unix socket and no network port.

The binaries are looked for on the path and where Debian puts them (/usr/lib/postgresql/*/bin). Where there are none
the tests that need them are skipped, unless REGRAFT_TEST_POSTGRES is set: then they fail (CI sets it). The server
refuses to run as root, so root hands it to the user postgres, or nobody. It dies with the process that started it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

START_SECONDS = 120
OWNER = "regraft"


@dataclass(frozen=True)
class Cluster:
    """A running server."""

    folder: Path

    def url(self, name: str) -> str:
        """The address of one of its databases."""
        return f"postgresql://{OWNER}@/{name}?host={self.folder}"

    def execute(self, statement: str) -> None:
        """Run a statement on the server's own database."""
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    @contextmanager
    def fresh(self, *, template: str = "template0", options: str = "") -> Iterator[str]:
        """The address of a database that is like another one, dropped afterwards."""
        name = f"t_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} {options}")
        yield self.url(name)
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @cached_property
    def migrated(self) -> str:
        """The name of a database that has regraft's tables, to make others from."""
        from regraft.store.db import open_database

        self.execute("CREATE DATABASE migrated TEMPLATE template0")
        open_database(self.url("migrated"), runs_dir=self.folder).close()
        return "migrated"


def binaries() -> Path | None:
    """The folder with initdb and postgres, of the newest version."""
    if (found := shutil.which("initdb")) is not None:
        return Path(found).resolve().parent
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(folders, key=lambda path: int(path.parent.name), default=None)


@contextmanager
def running() -> Iterator[Cluster]:
    """Start a server; stop it and delete its data afterwards."""
    programs = binaries()
    if programs is None or shutil.which("setpriv") is None:
        say = pytest.fail if os.environ.get("REGRAFT_TEST_POSTGRES") else pytest.skip
        say("these tests need PostgreSQL's initdb and postgres, and setpriv: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="regraft-pg-", dir="/tmp"))  # a socket's path may have 107 characters
    user: list[str] = []
    if os.getuid() == 0:
        names = {entry.pw_name for entry in pwd.getpwall()}
        owner = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
        user = ["--reuid", str(owner.pw_uid), "--regid", str(owner.pw_gid), "--clear-groups"]
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    data, log = folder / "data", folder / "log"
    server = None
    try:
        subprocess.run(
            ["setpriv", *user, "--", programs / "initdb", "-D", data, "-U", OWNER, "-A", "trust", "-E", "UTF8",
             "--locale=C", "--no-sync", "--no-instructions"],
            cwd=folder, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        settings = {"listen_addresses": "", "unix_socket_directories": str(folder), "fsync": "off",
                    "max_connections": "200", "shared_buffers": "16MB"}  # fmt: skip
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with log.open("wb") as out:
            server = subprocess.Popen(
                ["setpriv", *user, "--pdeathsig", "QUIT", "--", programs / "postgres", "-D", data, *words],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        cluster = Cluster(folder)
        _wait(cluster, server, log)
        yield cluster
    finally:
        if server is not None:
            server.send_signal(signal.SIGQUIT)  # at once: nothing is worth a checkpoint
            server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(cluster: Cluster, server: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg

    end = time.monotonic() + START_SECONDS
    while True:
        try:
            cluster.execute("SELECT 1")
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text(errors='replace')[-2000:]}") from None
            time.sleep(0.05)
        else:
            return
