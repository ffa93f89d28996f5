"""A report in a real browser: no error, figures that have marks and answer, keys, contrast.

Debian's chromium and chromium-driver are what it is looked at with (`apt-get install chromium
chromium-driver`); where they are not installed the tests are skipped.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mobilenas.report.page.content import report_content
from mobilenas.report.page.write import write_page

webdriver = pytest.importorskip("selenium.webdriver")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="there is no chromium with a chromedriver here"
)
SIZES = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]


@pytest.fixture(scope="module")
def page(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("browser") / "report.html"
    write_page(report_content([job]), path)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator["webdriver.Chrome"]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def show(browser: "webdriver.Chrome", page: Path, width: int, theme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(page.as_uri())


@pytest.mark.parametrize(("width", "theme"), SIZES)
def test_a_report_is_drawn_without_an_error(
    browser: "webdriver.Chrome", page: Path, width: int, theme: str
) -> None:
    show(browser, page, width, theme)
    marks = browser.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('.plot')].map(plot =>"
        " [plot.id, plot.querySelectorAll('.point, .js-line, .hm image').length]))"
    )
    assert len(marks) >= 10
    assert [name for name, count in marks.items() if not count] == []
    assert browser.get_log("browser") == []
    # Wide tables scroll by themselves: the page does not.
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width


def test_the_arrow_keys_show_what_a_point_is(browser: "webdriver.Chrome", page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    show(browser, page, 1280, "light")
    plot = browser.find_element("id", "plot-front")
    plot.send_keys(Keys.ARROW_RIGHT)
    assert browser.switch_to.active_element == plot
    label = plot.find_element("css selector", ".hoverlayer .hovertext").text
    assert "supernet" in label
    assert "FLOPs" in label
    plot.send_keys(Keys.ARROW_RIGHT)
    assert plot.find_element("css selector", ".hoverlayer .hovertext").text != label


def test_the_mouse_shows_what_a_point_is(browser: "webdriver.Chrome", page: Path) -> None:
    show(browser, page, 1280, "light")
    plot = browser.find_element("id", "plot-ranking-0")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    dot = plot.find_elements("css selector", ".point")[3]
    webdriver.ActionChains(browser).move_to_element(dot).perform()
    label = plot.find_element("css selector", ".hoverlayer .hovertext").text
    assert "stand-alone" in label


def test_a_front_is_shown_over_each_cost(browser: "webdriver.Chrome", page: Path) -> None:
    from selenium.webdriver.support.select import Select

    show(browser, page, 1280, "light")
    Select(browser.find_element("id", "over-front")).select_by_visible_text("params")
    title = browser.find_element("css selector", "#plot-front .xtitle").text
    assert title == "parameters (M)"


def test_two_archs_are_compared(browser: "webdriver.Chrome", page: Path) -> None:
    from selenium.webdriver.support.select import Select

    show(browser, page, 390, "light")
    said = browser.find_element("id", "differences").text
    assert " of 6 differ" in said
    assert re.search(r"memory [\d.]+kB [\d.]+kB", said), said
    first = Select(browser.find_element("id", "first"))
    first.select_by_index(len(first.options) - 1)
    assert "different spaces" in browser.find_element("id", "differences").text


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_everybody_can_read_it(
    browser: "webdriver.Chrome", page: Path, width: int, theme: str
) -> None:
    axe = pytest.importorskip("axe_core_python.selenium").Axe()
    show(browser, page, width, theme)
    browser.execute_script("document.querySelectorAll('details').forEach(x => x.open = true)")
    found = axe.run(browser)["violations"]
    assert [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in found] == []
