"""The built pages in a browser, wide and on a phone: nothing sticks out, breaks, or asks another host for anything.

``PYRO_VAES_BROWSER=1`` fails where there is no browser, instead of skipping; ``PYRO_VAES_DOCS=FOLDER`` looks at pages
that are built already; ``PYRO_VAES_SCREENSHOTS=FOLDER`` keeps a picture of every page,
``PYRO_VAES_ONLY=howto/*.html`` looks at some pages only.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import pyro_vaes as pv

ROOT = Path(pv.__file__).parent.parent
WIDTHS = {"wide": (1280, 900), "phone": (375, 812)}
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--allow-file-access-from-files",
]  # fmt: skip
SETTLED = """
const done = arguments[arguments.length - 1];
const asked = document.querySelector("script[src*='mathjax' i], script[src*='tex-' i]");
const later = () => window.MathJax && MathJax.startup && MathJax.startup.promise
  ? MathJax.startup.promise.then(() => done(true)) : setTimeout(later, 50);
asked && document.querySelector(".math") ? later() : done(true);
"""
LOOK = """
const width = document.documentElement.clientWidth, out = [];
const scrolls = e => { for (let p = e.parentElement; p && p.tagName !== "ARTICLE"; p = p.parentElement)
  if (getComputedStyle(p).overflowX !== "visible") return true; return false; };
for (const e of document.querySelectorAll("main article *")) {
  const box = e.getBoundingClientRect();
  if (box.width && box.right > width + 1 && !scrolls(e) && !e.closest("mjx-assistive-mml"))
    out.push(e.tagName + "." + e.className + ": " + (e.textContent || "").trim().slice(0, 40)); }
const sharp = m => !!m.querySelector("mjx-container");
return {
  over: document.documentElement.scrollWidth - width, out: out.slice(0, 3),
  raw: [...document.querySelectorAll(".math")].filter(m => !sharp(m)).map(m => m.textContent.trim().slice(0, 60)),
  wrong: [...document.querySelectorAll("mjx-merror, [data-mjx-error], mjx-container merror")]
    .map(m => m.textContent.slice(0, 60)),
  images: [...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src),
};
"""


def browser() -> tuple[str, str] | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    return (found, driver) if found and driver else None


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder of the built pages."""
    if given := os.environ.get("PYRO_VAES_DOCS"):
        return Path(given).resolve()
    pytest.importorskip("sphinx")
    out = tmp_path_factory.mktemp("docs")
    made = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(ROOT / "docs"), str(out)],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def seen(built, tmp_path_factory) -> dict[str, dict[str, list[str]]]:
    """What is wrong, by kind and page: every page is visited once, and looked at in both widths."""
    pytest.importorskip("selenium")
    where = browser()
    if where is None:
        if os.environ.get("PYRO_VAES_BROWSER"):
            pytest.fail("PYRO_VAES_BROWSER is set, and there is no chromium with its chromedriver")
        pytest.skip("needs chromium and chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = where[0]
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(where[1]))
    try:
        driver.set_script_timeout(120)
        driver.get("about:blank")  # the browser's own first page is not ours
        found: dict[str, dict[str, list[str]]] = {
            kind: {} for kind in ("overflow", "console", "elsewhere", "math", "images")
        }
        for page in pages_of(built):
            for kind, complaints in visit(driver, page, built).items():
                if complaints:
                    found[kind][str(page.relative_to(built))] = complaints
        return found
    finally:
        driver.quit()


def pages_of(built: Path) -> list[Path]:
    """The pages, without the theme's templates; of the listings of source code their index alone."""
    only = os.environ.get("PYRO_VAES_ONLY", "**/*.html")
    names = [page.relative_to(built) for page in sorted(built.glob(only))]
    return [built / n for n in names if n.parts[0] not in ("_static", "_modules") or n.name == "index.html"]


def visit(driver, page: Path, built: Path) -> dict[str, list[str]]:
    """Look at one page in both widths."""
    wrong: dict[str, list[str]] = {kind: [] for kind in ("overflow", "console", "elsewhere", "math", "images")}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen("wide"))
    driver.get_log("performance"), driver.get_log("browser")
    driver.get(page.as_uri())
    for name in WIDTHS:
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen(name))
        driver.execute_async_script(SETTLED)
        looked = driver.execute_script(LOOK)
        if looked["over"] > 1 or looked["out"]:
            wrong["overflow"].append(f"{name}: {looked['over']} px, {looked['out']}")
        wrong["math"] += [*looked["raw"], *looked["wrong"]]
        wrong["images"] += looked["images"]
        picture(driver, page.relative_to(built), name)
    wrong["console"] = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    wrong["elsewhere"] = elsewhere(driver.get_log("performance"))
    return wrong


def screen(name: str) -> dict[str, object]:
    width, height = WIDTHS[name]
    return {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}


def elsewhere(log: list[dict]) -> list[str]:
    """Every address that was asked for and is no file of ours."""
    sent = [json.loads(entry["message"])["message"] for entry in log]
    urls = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if urlsplit(url).scheme not in ("file", "data", "blob", "about")]


def picture(driver, page: Path, name: str) -> None:
    """The whole page as a PNG, at most four thousand pixels of it."""
    import base64

    folder = os.environ.get("PYRO_VAES_SCREENSHOTS")
    if not folder or page.parts[0] == "_modules":
        return
    width, height = WIDTHS[name]
    tall = min(4000, max(height, driver.execute_script("return document.documentElement.scrollHeight")))
    clip = {"x": 0, "y": 0, "width": width, "height": tall, "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    to = Path(folder) / f"{'-'.join(page.with_suffix('').parts)}.{name}.png"
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(base64.b64decode(shot["data"]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["overflow", "console", "elsewhere", "math", "images"])
def test_pages_in_a_browser(seen, kind):
    assert not seen[kind]


class Links(HTMLParser):
    """Where a page points to, and what on it can be pointed to."""

    def __init__(self, text: str):
        super().__init__()
        self.to: list[str] = []
        self.anchors: set[str] = set()
        self.formulas = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        self.to += [given[key] for key in ("href", "src") if given.get(key)]
        self.formulas += "math" in (given.get("class") or "").split()


@pytest.mark.slow
def test_built_links_lead_somewhere(built):
    """Every link and anchor of every built page, and pages with formulas among them."""
    files = [path for path in sorted(built.rglob("*.html")) if path.relative_to(built).parts[0] != "_static"]
    pages = {path: Links(path.read_text()) for path in files}
    assert sum(page.formulas for page in pages.values()) > 10
    broken = []
    for path, page in pages.items():
        for link in page.to:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or re.match(r"#?$", link):
                continue
            to = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[to].anchors if to in pages and parts.fragment else {unquote(parts.fragment)}
            if not to.is_file() or unquote(parts.fragment) not in anchors:
                broken.append(f"{path.relative_to(built)} -> {link}")
    assert not broken
