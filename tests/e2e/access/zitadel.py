"""zitadel's authorization server, in which people log in with a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
import pytest

from tests.e2e.clients import CACHE
from tests.e2e.stack import PLAIN, Process, free_ports, wait_until

CALLBACK = "http://127.0.0.1:1/callback"
OIDC = CACHE / "oidc"
PEOPLE = ("alice", "bob", "carol")


@contextmanager
def zitadel(directory: Path) -> Iterator[str]:
    """The URL of zitadel's server; it exchanges tokens of admins alone, so carol's are not."""
    if not OIDC.exists():
        pytest.skip("needs the authorization server that build/clients makes")
    users = {
        name: {"ID": name, "Username": name, "Password": "verysecure", "IsAdmin": name != "carol", "PreferredLanguage": "en"}
        for name in PEOPLE
    }
    (directory / "users.json").write_text(json.dumps(users))
    (port,) = free_ports(1)
    process = Process([str(OIDC), str(port), CALLBACK, str(directory / "users.json")], directory / "log")
    try:
        wait_until(lambda: "listening" in process.text, "the authorization server")
        yield f"http://localhost:{port}/"
    finally:
        process.stop()


def logged_in(provider: str, name: str) -> str:
    """The ID token of somebody who logs in with a browser."""
    asked = {"client_id": "web", "redirect_uri": CALLBACK, "response_type": "code", "scope": "openid", "state": "s"}
    with httpx2.Client(trust_env=False) as browser:
        page = browser.get(f"{provider}auth", params=asked)
        while not page.is_redirect or not page.headers["location"].startswith(CALLBACK):
            if page.is_redirect:
                page = browser.get(urljoin(str(page.url), page.headers["location"]))
                continue
            form = re.search(r'action="([^"]+)".*name="id" value="([^"]+)"', page.text, re.DOTALL)
            assert form is not None, page.text
            fields = {"id": form[2], "username": name, "password": "verysecure"}
            page = browser.post(urljoin(str(page.url), form[1]), data=fields)
        code = parse_qs(urlsplit(page.headers["location"]).query)["code"][0]
        got = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK}
        return str(browser.post(f"{provider}oauth/token", data=got, auth=("web", "secret")).json()["id_token"])


def person(provider: str, authorization: str) -> str:
    """Whose token it is, as the authorization server says."""
    shown = PLAIN.get(f"{provider}userinfo", headers={"authorization": authorization})
    assert shown.status_code == 200, shown.text
    return str(shown.json()["sub"])
