"""Is a folder on a network file system? There SQLite's write-ahead log loses data: it needs memory that all share."""

from __future__ import annotations

import re
from pathlib import Path

_NETWORK = re.compile(
    "9p|afs|afpfs|beegfs|ceph|cifs|cvmfs|davfs|glusterfs|gpfs|lustre|ncpfs|nfs[34]?|ocfs2|orangefs|smb[23]|smbfs|webdav|"
    "(fuse[.])?(sshfs|rclone|s3fs|gcsfuse|goofys|davfs2|glusterfs|ceph|juicefs|nfs)"
)


def network_file_system(folder: Path) -> str | None:
    """The name of the network file system that `folder` (or its nearest existing parent) lies on, else None.

    None too where the system does not tell.
    """
    import psutil

    place = folder.resolve()
    try:
        mounts = [(Path(part.mountpoint), part.fstype) for part in psutil.disk_partitions(all=True)]
    except (OSError, RuntimeError):
        return None
    above = [(len(mount.parts), kind) for mount, kind in mounts if place.is_relative_to(mount)]
    if not above:
        return None
    deepest = max(depth for depth, _ in above)
    kind = [kind for depth, kind in above if depth == deepest][-1].lower()  # mounted over: the last one is seen
    return kind if _NETWORK.fullmatch(kind) else None
