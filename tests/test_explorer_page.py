"""The page of sliders in a real browser: it decodes as Python does, shows what was chosen, and asks nobody else.

Without Chromium the tests in the browser are skipped, unless PYRO_VAES_BROWSER=1 says that there must be one.
"""

import base64
import json
import os
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest

import pyro_vaes
from pyro_vaes.experiments.explorer import unpacked
from pyro_vaes.experiments.explorer_figures import decoded

ROOT = Path(pyro_vaes.__file__).parent.parent
STATIC = ROOT / "docs/_static"
RESULT = json.loads((ROOT / "results/explorer.quick.json").read_text())
MODELS = RESULT["models"]
TENSORS = {name: unpacked(m, (ROOT / "results" / m["file"]).read_bytes()) for name, m in MODELS.items()}
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
]  # fmt: skip
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>t</title>
<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="explore.css">
<style>body {{ margin: 8px; font-family: sans-serif }}</style></head><body>
{body}</body></html>"""


@pytest.mark.parametrize("name", MODELS)
def test_the_weights_decode_as_the_trained_pair_did(name):
    tensors = TENSORS[name]
    again = decoded(tensors, tensors["probe codes"], MODELS[name]["activation"])
    assert np.abs(again - tensors["probe images"]).max() < 1e-5
    assert np.ptp(tensors["probe images"], axis=0).max() > 0.1


@pytest.mark.parametrize("name", MODELS)
def test_what_the_page_says_is_in_what_it_shows(name):
    """Draws that were thinned have the moments of all, up to their Monte-Carlo error."""
    draws = TENSORS[name]["draws"]
    for image, z in zip(MODELS[name]["images"], draws, strict=True):
        if image["verdict"] != "no reference":
            mean, sd = np.array(image["nuts mean"]), np.array(image["nuts sd"])
            assert (np.abs(z.mean(0) - mean) < 0.5 * sd).all()
            assert (np.abs(np.log(z.std(0) / sd)) < 0.5).all()
    assert draws.shape == (len(MODELS[name]["images"]), RESULT["settings"]["kept"], RESULT["settings"]["latent_dim"])


def test_the_document_loads_what_is_tested_here():
    text = (ROOT / "docs/explore.md").read_text()
    assert re.findall(r'(?:src|href)="([^"]+)"', text) == [f"_static/{name}" for name in FILES]
    assert "<noscript>" in text


FILES = ("explore.css", "explorer-data.js", "explore.js")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium with a profile of its own, that logs its console and its requests."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or chromium is None:
        if os.environ.get("PYRO_VAES_BROWSER") == "1":
            pytest.fail("PYRO_VAES_BROWSER is 1, and there is no chromedriver or no chromium")
        pytest.skip("needs chromium and chromedriver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page's own script, style and data in a page without a theme, opened as a file."""
    sys.path.insert(0, str(ROOT / "docs/_ext"))
    try:
        import explorer_data
    finally:
        sys.path.pop(0)
    folder = tmp_path_factory.mktemp("page")
    for name in ("explore.css", "explore.js"):
        shutil.copy(STATIC / name, folder)
    (folder / "explorer-data.js").write_text(explorer_data.script(ROOT))
    body = (ROOT / "docs/explore.md").read_text().split("```{raw} html\n")[1].split("```")[0]
    (folder / "page.html").write_text(PAGE.format(body=body.replace("_static/", "")))
    return (folder / "page.html").as_uri()


@pytest.fixture
def opened(browser, page):
    """The page, anew; after the test its console must be empty, and all that it asked for a file."""
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page)
    yield browser
    # That a canvas is read back is the doing of these tests.
    assert [entry for entry in browser.get_log("browser") if "getImageData" not in entry["message"]] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    # The browser's own first page has requests too.
    asked = [one["request"]["url"] for one in sent if one["documentURL"].split("#")[0] == page]
    assert len(asked) >= 1 + len(FILES)
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def picture(browser):
    """The pixels of the decoded image, 0 to 255."""
    code = "const c = document.querySelectorAll('.pv-image')[1];"
    code += "return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
    return np.array(browser.execute_script(code)).reshape(-1, 4)[:, 0]


def sliders(browser):
    return browser.find_elements("css selector", ".pv-track input")


def shown(browser):
    """What stands beside the sliders."""
    outputs = browser.find_elements("css selector", ".pv-latent output")
    return [float(output.text.replace("−", "-")) for output in outputs]


def choose(browser, name):
    browser.execute_script("arguments[0].click()", browser.find_element("css selector", f"input[value={name}]"))


@pytest.mark.parametrize("name", MODELS)
def test_it_decodes_as_python_does(opened, name):
    tensors = TENSORS[name]
    for z, stored, joint in zip(
        tensors["probe codes"], tensors["probe images"], tensors["probe log joint"], strict=True
    ):
        code = [float(value) for value in z]
        found = np.array(opened.execute_script("return pyroVaes.decode(arguments[0], arguments[1])", name, code))
        assert np.abs(found - stored).max() < 1e-4
        assert np.abs(found - decoded(tensors, z, MODELS[name]["activation"])).max() < 1e-9
        fit = opened.execute_script("return pyroVaes.logJoint(arguments[0], 0, arguments[1])", name, code)
        assert fit == pytest.approx(float(joint), rel=1e-4, abs=1e-2)


@pytest.mark.parametrize("name", MODELS)
def test_a_slider_changes_the_picture(opened, name):
    choose(opened, name)
    before, numbers = picture(opened), shown(opened)
    used = MODELS[name]["used"].index(True)
    slider = sliders(opened)[used]
    slider.send_keys("\ue014" * 60)  # the right arrow
    after = shown(opened)
    assert after[used] > numbers[used] and after[:used] + after[used + 1 :] == numbers[:used] + numbers[used + 1 :]
    assert np.abs(picture(opened) - before).max() > 10
    code = opened.execute_script("return pyroVaes.state.z")
    assert code[used] == pytest.approx(float(slider.get_property("value")))
    expected = decoded(TENSORS[name], np.array(code), MODELS[name]["activation"])
    assert np.abs(picture(opened) - 255 * expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_an_image_sets_the_sliders_to_the_guides_mean(opened, name):
    choose(opened, name)
    thumbs = opened.find_elements("css selector", ".pv-thumbs button")
    assert [thumb.get_attribute("aria-label") for thumb in thumbs] == [i["label"] for i in MODELS[name]["images"]]
    for i in (3, len(thumbs) - 1):
        image = MODELS[name]["images"][i]
        opened.execute_script("arguments[0].click()", thumbs[i])
        assert shown(opened) == pytest.approx(image["guide mean"], abs=0.0051)
        assert [float(s.get_property("value")) for s in sliders(opened)] == pytest.approx(image["guide mean"], abs=0.02)
        assert thumbs[i].get_attribute("aria-pressed") == "true"
        said = opened.find_element("css selector", ".pv-verdict").text
        assert f"k-hat is {image['khat']:.2f}" in said
        assert said.startswith(("They agree", "They do not", "Nobody knows"))
        assert said.startswith("They do not") == (image["verdict"] == "bad")
        original = TENSORS[name]["images"][i]
        code = "const c = document.querySelectorAll('.pv-image')[0];"
        code += "return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
        assert (np.array(opened.execute_script(code)).reshape(-1, 4)[:, 0] == original).all()


def test_buttons_draw_codes(opened):
    image = MODELS["digits"]["images"][0]
    press = lambda code: opened.find_element("css selector", f"[data-code={code}]").click()  # noqa: E731
    press("zero")
    assert shown(opened) == [0.0] * len(MODELS["digits"]["names"])
    press("nuts")
    code = opened.execute_script("return pyroVaes.state.z")
    assert np.abs(TENSORS["digits"]["draws"][0] - np.array(code)).max(1).min() < 1e-6
    for name in ("guide", "prior"):
        press(name)
        first = opened.execute_script("return pyroVaes.state.z")
        press(name)
        assert opened.execute_script("return pyroVaes.state.z") != first
    many = opened.execute_script(
        "const b = document.querySelector('[data-code=guide]'), all = [];"
        "for (let i = 0; i < 300; i++) { b.click(); all.push(pyroVaes.state.z.slice()); } return all"
    )
    z = (np.array(many) - image["guide mean"]) / image["guide sd"]
    assert (np.abs(z.mean(0)) < 0.25).all() and (np.abs(z.std(0) - 1) < 0.2).all()


def test_zooming_in_keeps_the_code(opened):
    before = opened.execute_script("return pyroVaes.state.z")
    opened.find_element("css selector", ".pv-zoom input").click()
    assert opened.execute_script("return pyroVaes.state.z") == before
    image = MODELS["digits"]["images"][0]
    for j, slider in enumerate(sliders(opened)):
        low, high = float(slider.get_property("min")), float(slider.get_property("max"))
        assert low < image["nuts mean"][j] - 3 * image["nuts sd"][j] < image["nuts mean"][j] < high
        assert high - low < 20 * max(image["nuts sd"][j], image["guide sd"][j])


def test_what_is_pruned_is_named(opened):
    for name, model in MODELS.items():
        choose(opened, name)
        said = opened.find_element("css selector", ".pv-pruned").text
        pruned = [entry for entry, used in zip(model["names"], model["used"], strict=True) if not used]
        assert all(entry in said for entry in pruned) and (not pruned) == said.startswith("No latent")
        labels = [label.text for label in opened.find_elements("css selector", ".pv-latent label")]
        assert sum("pruned" in label for label in labels) == len(pruned)


@pytest.mark.parametrize(("width", "height"), [(320, 256), (375, 800), (1280, 800)])
def test_no_page_is_wider_than_the_screen(opened, width, height):
    """320 x 256 is what is left of 1280 x 1024 at 400 %: pictures that stay in sight would hide the sliders."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for name in MODELS:
            choose(opened, name)
            opened.execute_script("document.querySelector('details').open = true")
            assert opened.execute_script("return document.documentElement.scrollWidth") <= width
            assert opened.execute_script("return document.querySelector('.pv-track').clientWidth") > width / 4
            code = """const pair = document.querySelector('.pv-pair');
                return getComputedStyle(pair).position === 'sticky' ? pair.offsetHeight : 0"""
            assert opened.execute_script(code) < height / 2, "room for the sliders"
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("damage", ["missing", "half", "short", "nan", "empty"])
def test_damaged_data_are_said(browser, page, damage, tmp_path):
    """Instead of an empty page."""
    source = Path(url2pathname(urlsplit(page).path)).parent
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "explorer-data.js"
    text = file.read_text()
    start = text.index('"bin"')
    first = text.index('": "', start) + 4
    nan = base64.b64encode(np.full(3, np.nan, "<f4").tobytes()).decode()
    changed = {
        "half": text[: len(text) // 2], "short": text[:first] + text[first + 4000 :], "empty": "",
        "nan": text[:first] + nan + text[first + len(nan) :],
    }  # fmt: skip
    file.unlink() if damage == "missing" else file.write_text(changed[damage])
    browser.get((tmp_path / "page.html").as_uri())
    assert "missing or damaged" in browser.find_element("css selector", "#explorer [role=alert]").text
    assert not browser.find_elements("css selector", "#explorer button")
    browser.get_log("browser")


def test_a_code_that_is_none_is_refused(opened):
    code = "try { pyroVaes.setCode(arguments[0]); return null } catch (error) { return error.message }"
    before = opened.execute_script("return pyroVaes.state.z")
    assert "finite" in opened.execute_script(code, [1.0]) and "finite" in opened.execute_script(
        code, [None] * len(before)
    )
    assert opened.execute_script("return pyroVaes.state.z") == before


def test_every_control_has_a_name(opened):
    code = """const labelled = e => [...(e.labels || [])].some(label => label.textContent.trim());
        return [...document.querySelectorAll('#explorer :is(input, button, [role=img])')]
        .filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() || labelled(e))).map(e => e.outerHTML)"""
    assert opened.execute_script(code) == []
