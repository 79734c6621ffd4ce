"""What a page's form sends."""

from __future__ import annotations

from urllib.parse import parse_qsl

from fastapi import HTTPException, Request

MAX_FIELDS = 20


async def fields_of(request: Request, most: int = MAX_FIELDS) -> dict[str, str]:
    """The fields of a form, by name.

    Raises:
        HTTPException: 400, where it is no form or has more than `most` fields.
    """
    body = await request.body()
    try:
        return dict(parse_qsl(body.decode("utf-8"), max_num_fields=most, keep_blank_values=True))
    except ValueError:
        raise HTTPException(400, "the form cannot be read") from None
