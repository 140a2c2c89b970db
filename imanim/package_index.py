"""Files of the package index that pip cannot fetch without running them: source archives, by the simple API (PEP 503, 691).

The index is the one pip is configured for (its files and environment variables), asked for one project, then for one file.
"""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from packaging.utils import canonicalize_name

DEFAULT_INDEX = "https://pypi.org/simple"
CHUNK_BYTES = 1 << 20
# JSON says the same in less; an index that knows only HTML ignores the preference.
ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


class NotFetched(Exception):
    """A file of an index did not come; ``str(error)`` is the reason in one line, without passwords."""


def pip_settings() -> dict[str, str]:
    """What ``pip download`` is configured with: option (``index-url``, ``cert`` ...) to value, the strongest source's."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotFetched(f"`pip config list` failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    strongest: dict[str, tuple[int, str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        strength = {"global": 1, "download": 2, ":env:": 3}.get(section, 0)
        if strength > strongest.get(option, (0, ""))[0]:
            strongest[option] = strength, str(ast.literal_eval(value))
    return {option: value for option, (_, value) in strongest.items()}


def fetch(project: str, filename: str, sha256: str, folder: Path) -> Path:
    """Downloads one file of a project into ``folder``, streamed and checked.

    Raises:
        NotFetched: no index can be asked, none lists the file, the transfer fails or its sha256 is another.
    """
    settings = pip_settings()
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        raise NotFetched("pip is configured with no-index")
    indexes = [settings.get("index-url", DEFAULT_INDEX), *settings.get("extra-index-url", "").split()]
    failures = []
    for index in indexes:
        try:
            links = _links(f"{index.rstrip('/')}/{canonicalize_name(project)}/", settings)
        except NotFetched as error:
            failures.append(str(error))
            continue
        if filename in links:
            return _download(links[filename], sha256, folder / filename, settings)
        failures.append(f"{shown(index)} does not list {filename}")
    raise NotFetched("; ".join(failures))


def shown(url: str) -> str:
    """A URL without the user name and password that an index may ask for."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _links(page: str, settings: dict[str, str]) -> dict[str, str]:
    """File name -> URL of the files that a project's page lists."""
    import json

    with _open(page, settings, ACCEPT) as (stream, address, kind):
        body = stream.read()
    if not kind.startswith("application/vnd.pypi.simple.v1+json"):
        anchors = _Anchors()
        anchors.feed(body.decode("utf-8", "replace"))
        urls = [urljoin(address, href) for href in anchors.hrefs]
        return {unquote(urlsplit(url).path.rpartition("/")[2]): urldefrag(url).url for url in urls}
    try:
        return {str(f["filename"]): urljoin(address, str(f["url"])) for f in json.loads(body)["files"]}
    except (ValueError, KeyError, TypeError):
        raise NotFetched(f"{shown(page)} does not answer as a package index") from None


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hrefs += [value for key, value in attrs if tag == "a" and key == "href" and value]


def _download(url: str, sha256: str, path: Path, settings: dict[str, str]) -> Path:
    digest = hashlib.sha256()
    with _open(url, settings, "*/*") as (stream, _, _), open(path, "wb") as out:
        while piece := stream.read(CHUNK_BYTES):
            digest.update(piece)
            out.write(piece)
    if digest.hexdigest() != sha256:
        path.unlink()
        raise NotFetched(f"{shown(url)} has sha256 {digest.hexdigest()[:12]}..., not the pinned {sha256[:12]}...")
    return path


@contextmanager
def _open(url: str, settings: dict[str, str], accept: str) -> Iterator[tuple[BinaryIO, str, str]]:
    """A URL's bytes as a stream, the address they came from in the end, and their media type."""
    if urlsplit(url).scheme == "file":
        path = Path(unquote(urlsplit(url).path))
        path = path / "index.html" if url.endswith("/") else path
        try:
            with open(path, "rb") as stream:
                yield stream, url, "text/html"
        except OSError as error:
            raise NotFetched(f"{path}: {error.strerror}") from None
        return
    import requests
    import urllib3

    # `identity`: some servers call a .tar.gz a gzip-encoded .tar, and would have it unpacked on the way.
    headers = {"Accept": accept, "Accept-Encoding": "identity"}
    proxies = {"http": settings["proxy"], "https": settings["proxy"]} if "proxy" in settings else None
    timeout = float(settings.get("timeout", settings.get("default-timeout", 15)))
    try:
        with requests.get(
            url, headers=headers, proxies=proxies, verify=settings.get("cert", True), timeout=timeout, stream=True
        ) as answer:
            if not answer.ok:
                raise NotFetched(f"{shown(url)}: {answer.status_code} {answer.reason}")
            yield cast(BinaryIO, answer.raw), answer.url, answer.headers.get("Content-Type", "")
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise NotFetched(f"{shown(url)}: {type(error).__name__}") from None
