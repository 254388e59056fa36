"""`GET /openapi.json`: every HTTP route that is served, as `openapi.yaml` beside this describes them."""

from __future__ import annotations

import asyncio
import functools
from importlib import resources
from typing import Any

import yaml
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from checkrein import __version__
from checkrein.model.json import dumps

PATH = "/openapi.json"


def document() -> dict[str, Any]:
    """The description of this version, in OpenAPI 3.1."""
    read: dict[str, Any] = yaml.safe_load(resources.files(__package__).joinpath("openapi.yaml").read_bytes())
    return {**read, "info": {**read["info"], "version": __version__}}


@functools.cache
def _bytes() -> bytes:
    return dumps(document())


async def openapi(http: HttpRequest) -> Response:
    """Any key may read it."""
    return Response(await asyncio.to_thread(_bytes), media_type="application/json")
