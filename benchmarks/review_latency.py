"""From the key to the next image on the screen, in Chromium on this machine: at most 100 ms are aimed at.

    python benchmarks/review_latency.py                 # 50 keys, pictures of 1,200 × 900
    python benchmarks/review_latency.py --keys 200 --images 2000

The page itself measures: from the time stamp of the key to the first frame after the next image was decoded and put on
the stage. The server makes the thumbnails while the reviewer looks, as in real life: `--look` seconds an image.

Figures last seen, on two idle cores: 50 keys: median 37 ms, 95th percentile 60 ms, longest 74 ms; all 50 pictures were
decoded before the key. With a load of 2 to 4 from other work: 38, 59 and 63. With a load of 10 to 13: median 28, 95th
percentile 133, longest 358 ms, all decoded before as well: what is longer is waiting for a core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "board"))

from board_samples import running
from review_browser import Seat, chromium
from review_samples import sample_desk, sample_site

KEYS = ("Space", "Enter", "x", "1", "Space")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=50)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--look", type=float, default=0.7, help="seconds of looking at each image")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        site = sample_site(path, sample_desk(path, options.images, size=(900, 1200), share=0.5))
        with running(site, parts=("review",)) as base:
            browsers = chromium()
            seat = Seat(next(browsers), base).open()
            seat.page.wait_for_timeout(1000)
            for i in range(options.keys):
                seat.press(KEYS[i % len(KEYS)])
                seat.page.wait_for_timeout(1000 * options.look)
            found = seat.page.evaluate(
                "performance.getEntriesByName('review:next').map(one => [one.duration, one.detail.ahead])"
            )
            seat.saved()
            seat.leave()
            browsers.close()
    milliseconds, ahead = np.array(found).T
    median, high = np.percentile(milliseconds, [50, 95])
    print(
        f"{len(found)} keys: median {median:.0f} ms, 95th percentile {high:.0f} ms, longest {milliseconds.max():.0f} ms"
    )
    longest = milliseconds[ahead > 0].max()
    print(f"{int(ahead.sum())} of the pictures were decoded before the key; longest of them {longest:.0f} ms")


if __name__ == "__main__":
    main()
