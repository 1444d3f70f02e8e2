"""A report's page in a browser: axes and methods are chosen, tables and pictures are whole, it prints."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from distlth.report.summary import write_joint_report
from tests.report.browser import Browser
from tests.report.finished import finished, measure

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

SHOWN_AXES = (
    "[...document.querySelectorAll('[data-axis]')].filter(e => e.offsetParent).map(e => e.dataset.axis)"
)
FOCUS = "[document.activeElement.name, document.activeElement.value]"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser that shows the report of three seeds; one of them has measured tickets."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("needs Chromium")
    folder = tmp_path_factory.mktemp("page")
    runs = [finished(folder / f"run{seed}", seed, 0.90 + seed / 100) for seed in range(3)]
    measure(runs[0], "01/refill", saved=0.4)
    started = Browser(program, folder / "profile")
    started.open(write_joint_report(runs, folder / "report")[0])
    yield started
    started.close()


def test_it_needs_nothing_else(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert browser.value("performance.getEntriesByType('resource').length") == 0
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    browser.screenshot(picture := tmp_path_factory.getbasetemp() / "report.png")
    assert picture.stat().st_size > 20_000


def test_axes_are_chosen_with_the_mouse(browser: Browser) -> None:
    axes = browser.value("[...document.querySelectorAll('[name=axis]')].map(e => e.value)")
    assert axes[:3] == ["density", "alive", "macs"]
    assert [axis.partition("-node")[0] for axis in axes[3:]] == ["time-eager", "time-fastest"]
    for axis in (*axes, "density"):
        browser.value(f"document.querySelector('[name=axis][value=\"{axis}\"]').click()")
        assert browser.value(SHOWN_AXES) == [axis]
        assert browser.value(
            f"document.querySelector('[data-axis=\"{axis}\"] svg').getBoundingClientRect().height > 300"
        )
        assert browser.value(f"document.querySelectorAll('[data-axis=\"{axis}\"] table tr').length") == 3


def test_everything_is_reached_with_the_keyboard(browser: Browser) -> None:
    """The axes are one stop, on which arrows move; each method is one."""
    browser.value("document.activeElement.blur()")
    browser.press("Tab")
    assert browser.value(FOCUS) == ["axis", "density"]
    assert browser.value("getComputedStyle(document.activeElement).outlineWidth") == "3px"
    browser.press("ArrowRight")
    assert browser.value(SHOWN_AXES) == ["alive"]
    browser.press("Tab")
    assert browser.value(FOCUS) == ["method", "imp"]
    browser.press(" ")
    hidden = "[...document.querySelectorAll('[data-method=imp]')].map(e => getComputedStyle(e).display)"
    assert {*browser.value(hidden)} == {"none"}
    browser.press(" ")
    assert "none" not in browser.value(hidden)
    assert browser.value("document.querySelectorAll('.scroll[tabindex]').length") == 0  # none is cut off


def test_the_tables_and_pictures_are_whole(browser: Browser) -> None:
    cells = browser.value("[...document.querySelectorAll('td')].map(e => e.textContent)")
    assert "91.00% ± 1.00" in cells
    assert "40.0%" in cells
    headings = browser.value("[...document.querySelectorAll('h2')].map(e => e.textContent)")
    assert [heading.partition(" of ")[0] for heading in headings][:5] == [
        *("Accuracy", "Measured time", "Tickets over the seeds", "Jobs", "Masks")
    ]
    assert {"Overlap", "Cost", "Digests"} <= {heading.partition(" of ")[0] for heading in headings}
    assert browser.value("[...document.images].every(e => e.complete && e.naturalWidth > 300)")
    assert browser.value("[...document.querySelectorAll('svg')].every(e => e.getAttribute('aria-label'))")
    assert browser.value("document.querySelector('summary').textContent") == "5 tickets are not measured"
    ids = browser.value("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len({each for each in ids if each.startswith("axis-")}) == 5


def test_it_prints_all_axes_and_what_is_folded(browser: Browser) -> None:
    browser.send("Emulation.setEmulatedMedia", media="print")
    assert len(browser.value(SHOWN_AXES)) == 5
    assert browser.value("getComputedStyle(document.querySelector('[name=method]')).display") == "none"
    assert browser.value("document.querySelector('.methods').offsetParent !== null")
    browser.value("dispatchEvent(new Event('beforeprint'))")
    assert browser.value("[...document.querySelectorAll('details')].every(e => e.open)")
    assert browser.printed().startswith(b"%PDF")
    browser.send("Emulation.setEmulatedMedia", media="")
