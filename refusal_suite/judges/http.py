"""One POST of JSON with a deadline for the whole exchange, without redirects; the standard library's client."""

from __future__ import annotations

import http.client
import ipaddress
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from jetson_runtime.errors import ConfigError

__all__ = ["Post", "Reply", "Unreachable", "json_post"]

LONGEST_BODY = 1 << 20
PIECE = 1 << 14


@dataclass(frozen=True)
class Reply:
    """What came back; `retry_after_s` is 0 where the server names no time."""

    status: int
    body: bytes = field(repr=False)
    retry_after_s: float = 0.0


class Unreachable(Exception):
    """No reply: no connection, or not in time."""


Post: TypeAlias = Callable[[dict[str, Any]], Reply]


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def json_post(url: str, key: str | None, timeout_s: float) -> Post:
    """A function that posts JSON to `url`, with `key` as bearer token.

    Raises:
        ConfigError: `url` is no http(s) address, holds a password, or would send the key readable over a network.
    """
    _check(url, key)
    opener = build_opener(_NoRedirects)
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"

    def post(body: dict[str, Any]) -> Reply:
        request = Request(url, json.dumps(body).encode("utf-8"), headers, method="POST")
        deadline = time.monotonic() + timeout_s
        try:
            with opener.open(request, timeout=timeout_s) as response:
                return Reply(response.status, _read(response, deadline))
        except HTTPError as error:
            with error:
                return Reply(error.code, b"", _seconds(error.headers.get("Retry-After")))
        except TimeoutError:
            raise Unreachable(f"no reply within {timeout_s:g} s") from None
        except (URLError, OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise Unreachable(f"no reply within {timeout_s:g} s") from None
            words = getattr(reason, "strerror", None) or type(reason).__name__
            raise Unreachable(f"no connection ({words})") from None

    return post


def _check(url: str, key: str | None) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    # The address itself is not repeated: it may hold a password.
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigError(
            "--judge-url is no address of an endpoint",
            found=f"scheme '{parts.scheme}'" if parts.scheme else "no scheme",
            expected="http://HOST:PORT/v1 or https://HOST/v1",
            remedy="give the address up to, and without, /chat/completions",
        )
    if parts.username is not None or parts.password is not None:
        raise ConfigError("--judge-url holds a user or a password", remedy="give a key with --judge-key-env instead")
    if key is not None and parts.scheme == "http" and not _this_machine(host):
        raise ConfigError(
            "the key would travel readable to another machine",
            found="--judge-url with http and --judge-key-env",
            expected="https",
            remedy="use https, or leave --judge-key-env out",
        )


def _this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    body = b""
    while piece := response.read1(PIECE):
        body += piece
        if len(body) > LONGEST_BODY:
            raise Unreachable(f"a reply of more than {LONGEST_BODY} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
    return body


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and text.isascii() and text.isdigit() else 0.0
