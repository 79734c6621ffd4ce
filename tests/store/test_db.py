"""Opening the database: addresses, migrations, turns, errors in words."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from nursery import nursery

from regraft.errors import DataError, MissingExtraError, RegraftError, UsageError
from regraft.store import db, disks
from regraft.store.db import head_revision, open_database
from regraft.store.tables import METADATA


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request, tmp_path):
    """The address of a database without a table, once of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'new' / 'regraft.db'}"
    else:
        with request.getfixturevalue("postgres_cluster").fresh() as url:
            yield url


def test_by_default_beside_the_runs_and_as_safe_as_sqlite_can_be(tmp_path):
    database = open_database(runs_dir=tmp_path / "new" / "runs")
    assert (tmp_path / "new/runs/regraft.db").is_file()
    with database.connect() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}
    database.close()


def test_the_environment_names_the_database(tmp_path, monkeypatch):
    monkeypatch.setenv("REGRAFT_DATABASE_URL", f"sqlite:///{tmp_path / 'there' / 'x.db'}")
    open_database(runs_dir=tmp_path / "runs").close()
    assert (tmp_path / "there/x.db").is_file()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "kept in a file"),
        ("sqlite:///:memory:", "kept in a file"),
        ("mysql://me:s3cret@host/x", "'mysql://' is neither"),
        ("postgresql+psycopg2://me:s3cret@host/x", "neither"),
        ("s3cret", "must read sqlite:///FILE"),
        ("postgresql://me:s3cret@host:port/x", "must read sqlite:///FILE"),
    ],
)
def test_other_addresses_are_refused_and_no_password_is_repeated(url, words, tmp_path):
    with pytest.raises(UsageError, match=words) as caught:
        open_database(url, runs_dir=tmp_path)
    assert "s3cret" not in str(caught.value)


def test_a_server_that_is_not_there_is_an_error_without_the_password(tmp_path):
    url = f"postgresql://me:s3cret@/x?host={tmp_path}&sslpassword=s3cret"
    with pytest.raises(RegraftError, match="must answer: postgresql://me:") as caught:
        open_database(url, runs_dir=tmp_path)
    assert "s3cret" not in str(caught.value)


def test_without_psycopg_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"regraft\[postgres\]"):
        open_database("postgresql://me@host/x", runs_dir=tmp_path)


def test_psycopg_and_alembic_are_not_imported_for_a_sqlite_file_that_is_up_to_date(tmp_path):
    open_database(runs_dir=tmp_path).close()
    program = (
        "import pathlib, sys, regraft.store.decisions; from regraft.store.db import open_database;"
        f"open_database(runs_dir=pathlib.Path({str(tmp_path)!r})); print({{'psycopg', 'alembic'}} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"set()\n"


def test_tables_are_what_the_newest_migration_leaves(database):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    for name in ("annotations", "journal"):  # they declare their tables on the same metadata
        if (Path(db.__file__).with_name(f"{name}.py")).is_file():
            __import__(f"regraft.store.{name}")
    with database.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_revisions_are_one_line_whose_end_is_in_the_file_name():
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(db.__file__).with_name("migrations")))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [head_revision()]
    for script in scripts.walk_revisions():
        assert Path(script.path).name.startswith(f"v{script.revision}_")


def test_opening_again_keeps_what_is_there(empty_url, tmp_path):
    for n in range(3):
        database = open_database(empty_url, runs_dir=tmp_path)
        with database.begin() as connection:
            if n == 0:
                connection.exec_driver_sql("CREATE TABLE mine (n INTEGER)")
            connection.exec_driver_sql(f"INSERT INTO mine VALUES ({n})")
        with database.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM mine").scalar() == n + 1
        database.close()


def test_processes_that_start_at_once_migrate_once(empty_url, tmp_path):
    with nursery() as nurse:
        pids = [nurse.start("open_", empty_url) for _ in range(8)]
        assert [nurse.wait(pid) for pid in pids] == [["open", "ended 0"]] * 8
    database = open_database(empty_url, runs_dir=tmp_path)
    with database.connect() as connection:
        revisions = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all()
    assert revisions == [head_revision()]
    database.close()


def test_a_migration_that_fails_leaves_nothing(empty_url, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("alembic.operations.Operations.execute", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            open_database(empty_url, runs_dir=tmp_path)
    engine = sa.create_engine(empty_url.replace("postgresql:", "postgresql+psycopg:"))
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()
    open_database(empty_url, runs_dir=tmp_path).close()


def test_a_database_of_a_newer_regraft_is_left_alone(database_url, tmp_path):
    database = open_database(database_url, runs_dir=tmp_path)
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(DataError, match="install the newer regraft"):
        open_database(database_url, runs_dir=tmp_path)


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "regraft.db").write_text("dear diary, " * 500)
    with pytest.raises(DataError, match="must be one of regraft's"):
        open_database(runs_dir=tmp_path)
    assert (tmp_path / "regraft.db").read_text().startswith("dear diary")


def test_a_server_that_cannot_hold_every_name(postgres_cluster, tmp_path):
    with (
        postgres_cluster.fresh(options="ENCODING 'LATIN1'") as url,
        pytest.raises(DataError, match="must be in UTF8 to hold every name: this one is in LATIN1"),
    ):
        open_database(url, runs_dir=tmp_path)


def test_a_network_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(db, "network_file_system", lambda _: "nfs4")
    with pytest.raises(DataError, match=r"is on nfs4; give --database sqlite:////LOCAL"):
        open_database(runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/data/team/x", "nfs4"), ("/data/team/local/x", None), ("/data/team-b", None), ("/home/me", None),
        ("/mnt/over", "fuse.sshfs"), ("/data", None), ("/win", "9p"),
    ],
)  # fmt: skip
def test_which_disk_a_folder_is_on(folder, kind, monkeypatch):
    import psutil
    from psutil._ntuples import sdiskpart

    mounts = [
        ("/", "ext4"), ("/data/team", "nfs4"), ("/data/team/local", "xfs"), ("/mnt/over", "tmpfs"),
        ("/mnt/over", "fuse.sshfs"), ("/win", "9p"), ("/home", "fuseblk"),
    ]  # fmt: skip
    parts = [sdiskpart("none", where, what, "rw") for where, what in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: parts)
    assert disks.network_file_system(Path(folder)) == kind


def test_writers_take_turns_and_none_loses_its_place(database):
    with database.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE counter (n INTEGER)")
        connection.exec_driver_sql("INSERT INTO counter VALUES (0)")

    def count(_: int) -> None:
        with database.begin() as connection:
            lock = "" if database.is_sqlite else " FOR UPDATE"
            n = connection.exec_driver_sql(f"SELECT n FROM counter{lock}").scalar()
            connection.exec_driver_sql(f"UPDATE counter SET n = {n + 1}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(80)))
    with database.connect() as connection:
        assert connection.exec_driver_sql("SELECT n FROM counter").scalar() == 80


def test_a_block_that_raises_leaves_nothing(database):
    with database.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE mine (n INTEGER)")

    def insert(*values: str) -> None:
        with database.begin() as connection:
            for value in values:
                connection.exec_driver_sql(f"INSERT INTO mine VALUES ({value})")

    with pytest.raises(RegraftError, match="must answer"):
        insert("1", "no_such_column")
    with database.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM mine").scalar() == 0


def test_a_writer_that_never_ends_is_said_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(db, "WAIT_SECONDS", 0.1)
    database = open_database(runs_dir=tmp_path)
    other = sqlite3.connect(tmp_path / "regraft.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    locked = pytest.raises(RegraftError, match=r"must answer: sqlite:///.*\(database is locked\); try again")
    with locked, database.begin():
        pass
    with database.connect() as connection:  # readers go on
        assert connection.exec_driver_sql("SELECT count(*) FROM decisions").scalar() == 0
    other.close()
    database.close()


def test_a_full_disk_is_said_in_words(tmp_path):
    database = open_database(runs_dir=tmp_path)
    filling = ["PRAGMA max_page_count = 40", "CREATE TABLE large (x)", "INSERT INTO large VALUES (zeroblob(1000000))"]

    def fill() -> None:
        with database.begin() as connection:
            for statement in filling:
                connection.exec_driver_sql(statement)

    with pytest.raises(RegraftError, match="full"):
        fill()
    database.close()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises((RegraftError, OSError)):
        open_database(runs_dir=tmp_path)
