"""Every file is read, hashed and decoded once; what was found is remembered by content.

The memory is a folder of immutable shards, each a safetensors file named after its content and written aside, so any
number of processes may share it. A damaged shard is deleted; its images are decoded again.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from regraft import images
from regraft.errors import ImageError
from regraft.files import write_bytes
from regraft.signatures import looks_like_image

MAX_BYTES = 1 << 30
"""Larger files are not read: no image within MAX_PIXELS needs more."""

CHUNK = 64
"""Files a thread takes at a time: enough to make the hand-over cheap, few enough for a smooth progress bar."""

SHARD_ROWS = 16_384
"""Verdicts per shard; a killed scan loses at most so many decodings."""

FORMAT = "1"


class Verdict(NamedTuple):
    """What decoding a file said; `kind` is "" for a good image, otherwise a word of `BAD_FILES`."""

    format: str
    height: int
    width: int
    num_frames: int
    kind: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What the scan knows of each file, row for row with the listing.

    Attributes:
        hashes: uint8 (N, 32), zero where the file could not be read.
        sizes: int32 (N, 2), height and width after orientation.
        formats: uint8 (N,), index into `format_names`.
        format_names: "" (unknown) and Pillow's names.
        num_frames: int32 (N,).
        problems: row to (kind, reason) for files that cannot be used.
        num_decoded: files decoded now rather than known already.
    """

    hashes: NDArray[np.uint8]
    sizes: NDArray[np.int32]
    formats: NDArray[np.uint8]
    format_names: tuple[str, ...]
    num_frames: NDArray[np.int32]
    problems: dict[int, tuple[str, str]]
    num_decoded: int


def examine(
    paths: Sequence[str | Path],
    rows: Sequence[int],
    *,
    root: Path,
    cache_dir: Path | None = None,
    num_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Examined:
    """Read, hash and decode files on a pool of threads.

    Args:
        paths: all of the listing's paths, relative to `root` or absolute.
        rows: which of them to open.
        root: folder of the relative paths.
        cache_dir: where verdicts are remembered; None remembers nothing.
        num_threads: default: one for each core of this process.
        progress: called from this thread with (files done, files in all).
    """
    total = len(paths)
    format_names = ("", *images.FORMATS, "MPO")
    codes = {name: code for code, name in enumerate(format_names)}
    result = Examined(
        hashes=np.zeros((total, 32), np.uint8),
        sizes=np.zeros((total, 2), np.int32),
        formats=np.zeros(total, np.uint8),
        format_names=format_names,
        num_frames=np.ones(total, np.int32),
        problems={},
        num_decoded=0,
    )
    memory = VerdictMemory(cache_dir)
    base = str(root)

    def examine_chunk(start: int) -> int:
        for row in rows[start : start + CHUNK]:
            path = os.path.join(base, paths[row])
            try:
                data = read_file(path)
                digest = blake3(data).digest()
                verdict = memory.find(digest) or memory.add(digest, judge(data))
            except ImageError as error:
                result.problems[row] = error.kind, str(error)
                continue
            result.hashes[row] = np.frombuffer(digest, np.uint8)
            if verdict.kind:
                result.problems[row] = verdict.kind, verdict.reason
            else:
                result.sizes[row] = verdict.height, verdict.width
                result.formats[row] = codes.get(verdict.format, 0)
                result.num_frames[row] = verdict.num_frames
        memory.save(at_least=SHARD_ROWS)
        return min(CHUNK, len(rows) - start)

    done = 0
    with contextlib.ExitStack() as stack:
        pool = ThreadPoolExecutor(num_threads or _num_cores(), thread_name_prefix="scan")
        stack.callback(pool.shutdown, cancel_futures=True)
        for count in pool.map(examine_chunk, range(0, len(rows), CHUNK)):
            done += count
            if progress is not None:
                progress(done, len(rows))
    memory.save()
    return Examined(
        **{name: getattr(result, name) for name in Examined.__slots__ if name != "num_decoded"},
        num_decoded=memory.num_added,
    )


def read_file(path: str) -> bytes:
    """The bytes of an ordinary file that may be an image; never waits on a pipe.

    A file whose name does not promise an image is read in full only if its first bytes are an image's.

    Raises:
        ImageError: unreadable, vanished, special_file, is_directory, too_large, not_an_image.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        with open(os.open(path, flags), "rb", buffering=0) as stream:
            known = os.fstat(stream.fileno())
            if stat.S_ISDIR(known.st_mode):
                raise ImageError("is_directory", "it is a folder")
            if not stat.S_ISREG(known.st_mode):
                raise ImageError("special_file", "it is a pipe, socket or device, not a file")
            if known.st_size > MAX_BYTES:
                raise ImageError("too_large", f"it has {known.st_size:,} bytes, the limit is {MAX_BYTES:,}")
            head = b""
            if os.path.splitext(path)[1].lower() not in images.EXTENSIONS:
                head = stream.read(64)
                if head and not looks_like_image(head):
                    raise ImageError("not_an_image", "neither its name nor its content is an image's")
            return head + stream.readall()
    except ImageError:  # is a ValueError too
        raise
    except FileNotFoundError:
        raise ImageError("vanished", "it went away while the data were scanned") from None
    except IsADirectoryError:
        raise ImageError("is_directory", "it is a folder") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError("unreadable", f"it cannot be read ({reason})") from None
    except MemoryError:
        raise ImageError("too_large", "it does not fit into memory") from None


def judge(data: bytes) -> Verdict:
    """Decode a file for real; never raises."""
    try:
        info = images.inspect(data)
    except ImageError as error:
        return Verdict("", 0, 0, 1, error.kind, str(error))
    return Verdict(info.format, info.height, info.width, info.num_frames, "", "")


class VerdictMemory:
    """Verdicts by content hash: those on disk as sorted columns, those of this scan in a dict.

    Args:
        cache_dir: the cache folder, or None to remember only within this scan.
    """

    def __init__(self, cache_dir: Path | None) -> None:
        self.num_added = 0
        self._folder = cache_dir / "verdicts" / f"v{FORMAT}-{images.decoder_fingerprint()}" if cache_dir else None
        self._new: dict[bytes, Verdict] = {}
        self._unsaved: list[bytes] = []
        self._lock = threading.Lock()
        keys, info, texts = [np.empty((0, 32), np.uint8)], [np.empty((0, 4), np.int32)], [[("", "", "")]]
        for shard_keys, shard_info, shard_texts in self._shards():
            shard_info = shard_info.copy()
            shard_info[:, 0] += sum(map(len, texts))
            keys.append(shard_keys)
            info.append(shard_info)
            texts.append(shard_texts)
        self._texts = [text for shard in texts for text in shard]
        all_keys, all_info = np.concatenate(keys), np.concatenate(info)
        heads = _heads(all_keys)
        order = np.argsort(heads, kind="stable")
        self._heads, self._keys, self._info = heads[order], all_keys[order], all_info[order]

    def find(self, digest: bytes) -> Verdict | None:
        """What is known of this content, or None."""
        if (verdict := self._new.get(digest)) is not None:
            return verdict
        head = np.frombuffer(digest[:8], ">u8").astype(np.uint64)
        row = int(np.searchsorted(self._heads, head[0]))
        if row == len(self._heads) or self._keys[row].tobytes() != digest:
            return None
        text, height, width, frames = self._info[row].tolist()
        return Verdict(self._texts[text][0], height, width, frames, *self._texts[text][1:])

    def add(self, digest: bytes, verdict: Verdict) -> Verdict:
        """Remember a verdict; safe from any thread."""
        with self._lock:
            self.num_added += 1
            if digest not in self._new:
                self._new[digest] = verdict
                if verdict.kind != "too_large":  # depends on the memory at hand
                    self._unsaved.append(digest)
        return verdict

    def save(self, *, at_least: int = 1) -> None:
        """Write what is new as one shard; a disk that is full or read-only costs the memory, not the scan."""
        with self._lock:
            if self._folder is None or len(self._unsaved) < at_least:
                return
            digests, self._unsaved = sorted(self._unsaved), []
        from safetensors.numpy import save

        places: dict[tuple[str, str, str], int] = {}
        info = np.empty((len(digests), 4), np.int32)
        for row, digest in enumerate(digests):
            known = self._new[digest]
            place = places.setdefault((known.format, known.kind, known.reason), len(places))
            info[row] = place, known.height, known.width, known.num_frames
        keys = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
        texts = np.frombuffer(json.dumps(list(places)).encode(), np.uint8)
        seal = np.frombuffer(_seal(keys, info, texts), np.uint8)
        with contextlib.suppress(OSError):
            write_bytes(
                self._folder / f"{blake3(keys.tobytes()).hexdigest()[:24]}.safetensors",
                save({"keys": keys, "info": info, "texts": texts, "seal": seal}),
            )

    def _shards(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int32], list[tuple[str, str, str]]]]:
        if self._folder is None or not self._folder.is_dir():
            return
        from safetensors.numpy import load

        for path in sorted(self._folder.glob("*.safetensors")):
            try:
                shard = load(path.read_bytes())
                keys, info, texts = shard["keys"], shard["info"], shard["texts"]
                if shard["seal"].tobytes() != _seal(keys, info, texts):
                    raise ValueError("the seal does not fit")
                words = [(str(a), str(b), str(c)) for a, b, c in json.loads(texts.tobytes())]
            except OSError:
                continue
            except Exception:  # whatever the damage is: forget the shard, decode again
                with contextlib.suppress(OSError):
                    path.unlink()
                continue
            yield keys, info, words


def _heads(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(keys[:, :8]).view(">u8").reshape(-1).astype(np.uint64)


def _seal(*columns: NDArray[np.generic]) -> bytes:
    state = blake3()
    for column in columns:
        state.update(repr(column.shape).encode())
        state.update(np.ascontiguousarray(column).tobytes())
    return state.digest()


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
