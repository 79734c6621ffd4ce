"""From values to a page: one Jinja2 environment that escapes everything and refuses a name it does not know.

Templates lie in `templates/`, extend `base.html.jinja`, and may use the filters below and the macros of
`macros.html.jinja`. Class names, file names, notes and names of people are strangers' input: print them with `shown`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from regraft.board.assets import static
from regraft.board.security import visitor_of
from regraft.evaluate.wording import clipped, count, duration, percent, percent_range
from regraft.types import Interval

if TYPE_CHECKING:
    from regraft.board.site import Site

TEMPLATES = Path(__file__).parent / "templates"

PLACES = (("Review", "/review"), ("Runs", "/runs"), ("Journal", "/journal"))


def render(
    request: Request, template: str, *, status_code: int = 200, headers: Mapping[str, str] | None = None, **values: Any
) -> HTMLResponse:
    """A page, or a part of one.

    Args:
        request: whose visitor the page is for.
        template: name within `templates/`, such as `runs.html.jinja`.
        status_code: of the answer.
        headers: more of them.
        **values: what the template prints. Always there: `site`, `nav`, `csrf`, `reviewer`, `inside` (False for who has
            not shown the token yet), `path`.

    Raises:
        jinja2.UndefinedError: the template names a value that was not given.
    """
    site: Site = request.app.state.site
    visitor = visitor_of(request)
    here = {
        "site": site, "nav": _nav(request), "csrf": visitor.csrf, "reviewer": visitor.reviewer,
        "inside": visitor.inside, "path": request.scope["path"],
    }  # fmt: skip
    text = environment().get_template(template).render(here | values)
    return HTMLResponse(text, status_code, dict(headers or {}))


@cache
def environment() -> Environment:
    """The one Jinja2 environment."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
    made.globals["static"] = static
    made.filters |= {
        "shown": shown, "share": share, "share_range": share_range, "points": points, "points_range": points_range,
        "direction": direction, "places": places, "seconds": seconds, "ago": ago, "count": count,
    }  # fmt: skip
    return made


def _nav(request: Request) -> list[dict[str, Any]]:
    site: Site = request.app.state.site
    path = request.scope["path"]
    there: tuple[str, ...] = request.app.state.parts
    links = [
        {"title": title, "href": href, "current": path == href or path.startswith(href + "/"), "away": False}
        for title, href in PLACES
        if href[1:] in there and (href != "/review" or site.desk is not None)
    ]
    if site.tensorboard:
        links.append({"title": "TensorBoard", "href": site.tensorboard, "current": False, "away": True})
    return links


def shown(text: str | None, most: int | None = None) -> str:
    """A stranger's text as it can be put on a page: control characters written out, cut after `most` characters."""
    return clipped(text or "", 100_000 if most is None else most)


def share(value: Interval | Mapping[str, float] | float | None) -> str:
    """`93.4 %`, of a share or of an interval's estimate; `–` for None."""
    return percent(value if value is None or isinstance(value, int | float) else _ends(value)[0])


def share_range(value: Interval | Mapping[str, float] | None) -> str:
    """`92.0–94.6 %`; empty for None."""
    if value is None:
        return ""
    _, low, high = _ends(value)
    return percent_range(low, high)


def points(value: Interval | Mapping[str, float] | float | None) -> str:
    """A difference of two shares in percentage points, with its sign: `+1.2`; `–` for None."""
    if value is None:
        return "–"
    estimate = float(value) if isinstance(value, int | float) else _ends(value)[0]
    return _signed(estimate)


def points_range(value: Interval | Mapping[str, float] | None) -> str:
    """`−0.4 to +2.8 points`; empty for None."""
    if value is None:
        return ""
    _, low, high = _ends(value)
    return f"{_signed(low)} to {_signed(high)} points"


def direction(value: Interval | Mapping[str, float] | None) -> str:
    """`better` or `worse` where the interval of a difference leaves out zero, else empty."""
    if value is None:
        return ""
    _, low, high = _ends(value)
    return "better" if low > 0 else "worse" if high < 0 else ""


def places(value: Interval | Mapping[str, float], low: float = 0.0, high: float = 1.0) -> dict[str, float]:
    """Where an interval lies on a strip from 0 to 100 that stands for `low` to `high`."""
    span = (high - low) or 1.0
    at = [round(min(max(100 * (end - low) / span, 0.0), 100.0), 2) for end in _ends(value)]
    return {"estimate": at[0], "low": at[1], "width": round(max(at[2] - at[1], 0.5), 2)}


def seconds(value: float | None) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `1 h 05 min`; `–` for None."""
    return "–" if value is None or not math.isfinite(value) else duration(max(value, 0.0))


def ago(then: float | None, now: float | None = None) -> str:
    """`just now`, `4 min ago`, `3 h ago`, `yesterday`, `5 days ago`, or the day (UTC), of POSIX seconds."""
    if then is None or not math.isfinite(then):
        return "–"
    past = (time.time() if now is None else now) - then
    if past < 60:
        return "just now"
    if past < 3600:
        return f"{past // 60:.0f}\u00a0min ago"
    if past < 86_400:
        return f"{past // 3600:.0f}\u00a0h ago"
    if past < 172_800:
        return "yesterday"
    if past < 14 * 86_400:
        return f"{past // 86_400:.0f}\u00a0days ago"
    return time.strftime("%Y-%m-%d", time.gmtime(then))


def _ends(value: Interval | Mapping[str, float]) -> tuple[float, float, float]:
    if isinstance(value, Interval):
        return value.estimate, value.low, value.high
    return value["estimate"], value["low"], value["high"]


def _signed(share: float) -> str:
    text = f"{100 * share:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\u2212")
