"""A page on which people look at the suspects and decide: review."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from regraft.cli.options import CacheDir, ColumnOptions, RunsDir, scanned
from regraft.errors import UsageError


def review(
    data: Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    reviewer: str = "",
    blind: Annotated[bool, Parameter(negative="")] = False,
    database: str | None = None,
    runs_dir: RunsDir = Path("runs"),
    browser: bool = True,
    token: bool | None = None,
    backbone: str = "tf_efficientnet_lite0",
    engine: Literal["auto", "openvino", "torch", "compiled"] = "auto",
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    folds: int = 5,
    test: float | Literal["auto"] = "auto",
    seed: int = 0,
    columns: ColumnOptions = None,
    cache_dir: CacheDir = None,
) -> None:
    """Look at the suspects of an audit, one key per image; what is decided is kept, and no image file is touched.

    Parameters
    ----------
    data
        A folder of class folders, train/val/test folders of them, or a CSV or Parquet manifest.
    host
        Address to listen on; 0.0.0.0 for everybody in the network, who then need the token in the address.
    port
        By default the next free one from 8765.
    reviewer
        Your name beside what you decide; by default that of the operating system. Others say theirs on the page.
    blind
        Show nobody what is suggested, or what others decided.
    database
        Where decisions are kept: postgresql://USER:PASSWORD@HOST/NAME for a team; by default a file in the runs folder.
    browser
        Open the page in the browser.
    token
        Ask for a token on this machine too, where other people work on it.
    backbone
        Whose features the audit rests on.
    engine
        What runs the backbone.
    precision
        Its arithmetic.
    folds
        Number of folds in which labels are held out.
    test
        Share that is locked away, as in fit.
    seed
        Of the split, the folds and the random controls.
    """
    import secrets

    from regraft.auditing import AuditOptions
    from regraft.board.review.prepare import desk_of
    from regraft.board.server import address, free_port, serve
    from regraft.board.site import Site, is_loopback
    from regraft.board.visitors import checked_name
    from regraft.files import default_cache_dir
    from regraft.store.db import open_database
    from regraft.store.runs import project_name
    from regraft.terminal import TerminalListener

    alone = is_loopback(host)
    if not alone and token is False:
        raise UsageError(f"a board that others reach needs a token: --no-token with --host {host} is refused")
    name = checked_name(reviewer) if reviewer else ""
    options = AuditOptions(
        backbone=backbone, engine=engine, precision=precision, folds=folds, test=test, seed=seed, cache_dir=cache_dir
    )
    port = port if port is not None else free_port(host, 8765)
    listener = TerminalListener()
    project = project_name(data)
    scan = scanned(data, columns, cache_dir, listener)
    opened = open_database(database, runs_dir=runs_dir)  # before the audit, which takes longer
    try:
        desk = desk_of(scan, project=project, options=options, listener=listener, seed=seed)
        site = Site(
            runs_dir=runs_dir, database=opened, cache_dir=cache_dir or default_cache_dir(), project=project, desk=desk,
            token=None if alone and not token else secrets.token_urlsafe(24), host=host, port=port, reviewer=name,
            blind=blind,
        )  # fmt: skip
        page = address(site)

        def ready() -> None:
            num = int((~desk.controls[desk.order]).sum())
            print(f"{num:,} suspects among {len(desk):,} images, {len(desk.pairs):,} pairs of near-duplicates")
            print(f"review: {page}", flush=True)
            print("Ctrl+C ends it; what was decided is kept", flush=True)
            if browser:
                import webbrowser

                webbrowser.open(page)

        serve(site, on_ready=ready)
    finally:
        opened.close()
    print(f"next: regraft fit {shlex.quote(str(data))} applies what was decided")
