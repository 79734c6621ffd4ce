"""Looking after the cache."""

from __future__ import annotations

from cyclopts import App

from regraft.cli.options import CacheDir, Json, print_json
from regraft.errors import RegraftError

cache = App(name="cache", help="Look after cached features: list, verify, prune.", help_format="plaintext")


@cache.command(name="list")
def cache_list(*, cache_dir: CacheDir = None, json_: Json = False) -> None:
    """What is cached: one row per backbone, weights, transform and precision."""
    from regraft.features.cache import list_entries
    from regraft.files import default_cache_dir
    from regraft.terminal import print_table

    rows = list_entries(cache_dir or default_cache_dir())
    if json_:
        print_json(rows)
        return
    table = [
        (
            row["fingerprint"][:12], row["backbone"], row["size"], row["precision"], row["num_images"],
            f"{row['num_bytes'] / 2**20:,.1f} MiB",
        )
        for row in rows
    ]  # fmt: skip
    print_table(
        str(cache_dir or default_cache_dir()),
        ("fingerprint", "backbone", "size", "precision", "images", "on disk"),
        table,
    )


@cache.command(name="verify")
def cache_verify(*, cache_dir: CacheDir = None, json_: Json = False) -> None:
    """Read every shard and check it against the hash it carries; exit code 1 where one is damaged."""
    from regraft.features.cache import verify
    from regraft.files import default_cache_dir

    reports = list(verify(cache_dir or default_cache_dir()))
    damaged = [str(report.path) for report in reports if report.damage is not None]
    images = sum(report.num_images for report in reports)
    if json_:
        print_json({"num_shards": len(reports), "num_images": images, "damaged": damaged})
    else:
        print(f"{len(reports):,} shards, {images:,} images, {len(damaged):,} damaged")
    if damaged:
        raise RegraftError(
            f"a shard must hold what was written: {damaged[0]} does not ({len(damaged)} in all); "
            "the next fit sets them aside and computes their images again"
        )


@cache.command(name="prune")
def cache_prune(*, older_than_days: float = 30.0, fingerprint: str | None = None, cache_dir: CacheDir = None) -> None:
    """Delete cached features that were not added to for a while, and old thumbnails; they are made again when needed.

    Parameters
    ----------
    older_than_days
        How long ago the last image was added; 0 deletes everything.
    fingerprint
        Only the features of this entry (the beginning of its name is enough).
    """
    import time

    from regraft.features.cache import prune
    from regraft.files import default_cache_dir

    freed = prune(
        cache_dir or default_cache_dir(), older_than_seconds=older_than_days * 86_400, now=time.time(),
        fingerprint=fingerprint,
    )  # fmt: skip
    print(f"{freed / 2**20:,.1f} MiB freed")
