"""The database: SQLite beside the run folders, or a PostgreSQL server for a team.

SQLite runs in WAL mode with `synchronous=FULL`: what a commit acknowledged is on the disk. Writers take turns: a write
transaction begins with BEGIN IMMEDIATE and waits up to 30 s for the one before it. The tables are made and brought up
to date by Alembic when the database is opened, one process at a time, each time in one transaction.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL

from regraft._imports import try_import
from regraft.errors import DataError, RegraftError, UsageError
from regraft.store.disks import network_file_system

URL_VARIABLE = "REGRAFT_DATABASE_URL"
FILE_NAME = "regraft.db"
WAIT_SECONDS = 30.0
"""How long a writer waits for its turn, and a new connection for the server."""

_MIGRATIONS = Path(__file__).with_name("migrations")
_MIGRATION_LOCK = 7_305_214_803_311_001
"""Of PostgreSQL's advisory locks (one 64-bit number each) the one that migrations take."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Database:
    """An open database, its tables up to date.

    Attributes:
        engine: SQLAlchemy's; safe to share between threads, not across a fork.
        url_shown: where it is, without a password: for logs and pages.
    """

    engine: sa.Engine
    url_shown: str

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextlib.contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A write transaction: committed when the block ends, rolled back when it raises.

        Raises:
            RegraftError: the database does not answer, is full, or another writer held it for 30 s. Nothing is written,
                unless the connection broke in the very commit: then nobody knows.
        """
        with _in_words(self.url_shown), self.engine.execution_options(regraft_begin="BEGIN IMMEDIATE").begin() as one:
            yield one

    @contextlib.contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        """A transaction that only reads. Raises as `begin`."""
        with _in_words(self.url_shown), self.engine.connect() as one:
            yield one

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def open_database(url: str | None = None, *, runs_dir: Path) -> Database:
    """Open the project database, making it where it does not exist.

    Args:
        url: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`; None takes `$REGRAFT_DATABASE_URL`, else
            `RUNS_DIR/regraft.db`.
        runs_dir: folder of the run folders.

    Raises:
        UsageError: the address is of another kind of database, or cannot be read.
        MissingExtraError: PostgreSQL, and psycopg is not installed.
        DataError: a SQLite file on a network file system, a file that is no database, one of a newer regraft.
        RegraftError: it does not answer.
    """
    parsed = _parsed(url or os.environ.get(URL_VARIABLE) or None, runs_dir)
    database = _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgresql(parsed)
    try:
        _bring_up_to_date(database)
    except BaseException:
        database.close()
        raise
    return database


def database_file(url: str | None, runs_dir: Path) -> Path | None:
    """The file that `open_database` would open, or None where it is no SQLite database. Raises UsageError likewise."""
    parsed = _parsed(url or os.environ.get(URL_VARIABLE) or None, runs_dir)
    return Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" else None


def _parsed(url: str | None, runs_dir: Path) -> URL:
    if url is None:
        return URL.create("sqlite", database=str((runs_dir / FILE_NAME).resolve()))
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise UsageError(  # the address may hold a password: it is not repeated
            "a database address must read sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME: this one does not"
        ) from None
    kind = parsed.drivername
    if kind == "sqlite":
        if parsed.database in (None, "", ":memory:") or str(parsed.database).startswith("file:"):
            raise UsageError(
                f"a database must be kept in a file: {url!r} names none; sqlite:////folder/{FILE_NAME} does"
            )
        return URL.create("sqlite", database=str(Path(str(parsed.database)).expanduser().resolve()))
    if kind in ("postgresql", "postgres", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    raise UsageError(f"a database address begins with sqlite:/// or postgresql://: {kind + '://'!r} is neither")


def _sqlite(url: URL) -> Database:
    file = Path(str(url.database))
    if (kind := network_file_system(file.parent)) is not None:
        raise DataError(
            f"SQLite needs a local disk (on a network one decisions can be lost): {str(file)!r} is on {kind}; "
            f"give --database sqlite:////LOCAL/FOLDER/{FILE_NAME} or postgresql://…, or set {URL_VARIABLE}"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": WAIT_SECONDS}, pool_size=10, max_overflow=40)

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself: `_begin` does
        for pragma in (f"busy_timeout={WAIT_SECONDS * 1000:.0f}", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        if how := connection.get_execution_options().get("regraft_begin", "BEGIN"):
            connection.exec_driver_sql(how)

    return Database(engine=engine, url_shown=f"sqlite:///{file}")


def _postgresql(url: URL) -> Database:
    try_import("psycopg", extra="postgres")
    arguments = {} if "connect_timeout" in url.query else {"connect_timeout": round(WAIT_SECONDS)}
    engine = sa.create_engine(
        url, connect_args=arguments, pool_pre_ping=True, pool_size=10, max_overflow=40,
        isolation_level="READ COMMITTED",  # after waiting for its turn a writer must see what the one before it wrote
    )  # fmt: skip
    shown = url.set(drivername="postgresql", query={}).render_as_string(hide_password=True)
    return Database(engine=engine, url_shown=shown)


def head_revision() -> str:
    """The revision this version of regraft works with (read off the file names: Alembic takes a second to import)."""
    return max(path.name[1:5] for path in _MIGRATIONS.glob("versions/v[0-9][0-9][0-9][0-9]_*.py"))


def _bring_up_to_date(database: Database) -> None:
    head = head_revision()
    if database.is_sqlite:
        from filelock import FileLock

        file = Path(str(database.engine.url.database))
        if file.exists() and _journal_mode(database) == "wal" and _revision(database) == head:
            return
        with FileLock(file.with_name(f".{file.name}.lock"), timeout=WAIT_SECONDS * 4):
            if _journal_mode(database, "=WAL") != "wal":
                raise DataError(f"SQLite must be able to keep a write-ahead log: {str(file)!r} is where it cannot")
            with database.begin() as connection:
                _migrate(database, connection, head)
        return
    if _revision(database) == head:
        return
    with database.begin() as connection:
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            raise DataError(f"a PostgreSQL database must be in UTF8 to hold every name: this one is in {encoding}")
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        _migrate(database, connection, head)


def _journal_mode(database: Database, wanted: str = "") -> str:
    outside = database.engine.execution_options(regraft_begin="")  # within a transaction it cannot be changed
    with _in_words(database.url_shown), outside.connect() as connection:
        return str(connection.exec_driver_sql(f"PRAGMA journal_mode{wanted}").scalar())


def _revision(database: Database) -> str | None:
    with database.connect() as connection:
        return _revision_seen(connection)


def _revision_seen(connection: sa.Connection) -> str | None:
    """The revision that the database is at, None where it is new."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if found is None else str(found)


def _migrate(database: Database, connection: sa.Connection, head: str) -> None:
    """Apply what is missing; the connection is in a transaction that nobody else can be in at the same time."""
    found = _revision_seen(connection)
    if found == head:
        return
    if found is not None and (not re.fullmatch("[0-9]{4}", found) or found > head):
        raise DataError(
            f"a database must be of this regraft or an older one: {database.url_shown} is at revision {found!r}, "
            f"this regraft knows {head}; install the newer regraft"
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextlib.contextmanager
def _in_words(url_shown: str) -> Iterator[None]:
    """Say in one line what a database driver says in ten."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        first = (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]
        if "not a database" in first:
            raise DataError(f"a database must be one of regraft's: {url_shown} is none ({first})") from error
        raise RegraftError(f"the database must answer: {url_shown} does not ({first}); try again") from error
    except sa.exc.TimeoutError as error:
        raise RegraftError(
            f"the database must answer: {url_shown} has no connection free; nothing was written"
        ) from error
