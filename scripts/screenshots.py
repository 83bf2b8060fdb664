"""The documentation's site and the page of a run, looked at in headless Chromium.

    python scripts/screenshots.py --walk                 every page of site/, at two widths, light and dark
    python scripts/screenshots.py --run FOLDER           pictures of a run's page and of the site's start page

`--walk` ends with status 1 where a page complains on its console, asks for anything outside, or is wider than the
window. The pictures go to docs/pictures. `make docs` builds the site before.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "site"
PICTURES = ROOT / "docs" / "pictures"
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync",
            "--disable-component-update", "--no-first-run"]  # fmt: skip
WIDTHS = (390, 1440)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--walk", action="store_true", help="visit every page and say what is wrong")
    options.add_argument("--run", type=Path, metavar="FOLDER", help="an output folder, whose page is photographed")
    options.add_argument("--width", type=int, action="append", help="of --walk; default: 390 and 1440")
    asked = options.parse_args()
    if not SITE.is_dir():
        sys.exit("no site/: run `make docs` first")
    wrong = 0
    with browser() as opened, served(SITE) as address:
        if asked.walk:
            wrong = walk(opened, address, asked.width or WIDTHS)
        if asked.run is not None:
            photograph(opened, (asked.run / "lowrise" / "report.html").resolve().as_uri(), "page", 1180, 1000, "light")
            photograph(
                opened, (asked.run / "lowrise" / "report.html").resolve().as_uri(), "page-phone", 390, 844, "dark"
            )
            photograph(opened, f"{address}/index.html", "site", 1280, 800, "light")
    return 1 if wrong else 0


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        sys.exit("no chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=SWITCHES)
        yield opened
        opened.close()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Its address, on this machine alone: browsers start no search from a disk."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


def walk(opened: Any, address: str, widths: tuple[int, ...]) -> int:
    """How many complaints there are; each is printed."""
    pages = sorted(str(page.relative_to(SITE)) for page in SITE.rglob("*.html") if page.name != "404.html")
    wrong, visits = 0, 0
    for scheme in ("light", "dark"):
        for width in widths:
            context = opened.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            for name in pages:
                visits += 1
                for complaint in visit(context, address, name, width):
                    wrong += 1
                    print(f"{name}, {width} px, {scheme}: {complaint}")
            context.close()
    print(f"{len(pages)} pages, {visits} visits: {wrong} complaints")
    return wrong


def visit(context: Any, address: str, name: str, width: int) -> list[str]:
    page = context.new_page()
    found: list[str] = []
    page.on("console", lambda said: found.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("request", lambda asked: found.append(f"asks for {asked.url}") if outside(asked.url, address) else None)
    page.on("response", lambda got: found.append(f"{got.status} {got.url}") if got.status >= 400 else None)
    page.goto(f"{address}/{name}", wait_until="load")
    page.wait_for_timeout(30)
    wide = page.evaluate("document.documentElement.scrollWidth")
    if wide > width:
        found.append(f"is {wide} pixels wide")
    broken = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
    found += [f"picture {source} does not show" for source in broken]
    mute = page.evaluate("[...document.querySelectorAll('article img')].filter(i => !i.alt).map(i => i.src)")
    found += [f"picture {source} has no words" for source in mute]
    page.close()
    return found


def outside(url: str, address: str) -> bool:
    return not url.startswith((address, "data:", "blob:", "file:"))


def photograph(opened: Any, url: str, name: str, width: int, height: int, scheme: str) -> None:
    context = opened.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.goto(url, wait_until="load")
    page.wait_for_timeout(1500)  # until figures are drawn
    file = PICTURES / f"{name}.png"
    page.screenshot(path=str(file))
    context.close()
    print(f"written: {file.relative_to(ROOT)}, {file.stat().st_size // 1000} kB")


if __name__ == "__main__":
    sys.exit(main())
