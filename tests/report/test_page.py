"""The page of a report in a browser: axes and methods are chosen, tables and pictures are there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from distlth.report.summary import write_joint_report
from tests.report.test_report import finished

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# What a reader does: choose another axis, hide a method.
CLICKS = """
<script>
document.querySelector('[name=axis][value=alive]').click();
document.querySelector('[name=method][value=imp]').click();
</script></body>
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The document after the clicks, as a browser has it."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("needs Chromium")
    folder = tmp_path_factory.mktemp("page")
    runs = [finished(folder / f"run{seed}", seed, 0.90 + seed / 100) for seed in range(3)]
    page = write_joint_report(runs, folder / "report")[0]
    page.write_text(page.read_text().replace("</body>", CLICKS))
    return dumped(browser, page)


def dumped(browser: str, page: Path) -> str:
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    ended = subprocess.run(
        [browser, *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return ended.stdout


def test_another_axis_is_shown(shown: str) -> None:
    assert re.search(r'<figure id="axis-density" hidden', shown)
    assert re.search(r'<figure id="axis-alive">', shown)


def test_a_method_is_hidden(shown: str) -> None:
    parts = re.findall(r'<g data-method="imp"([^>]*)>', shown)
    assert parts
    assert all("display: none" in attributes for attributes in parts)


def test_the_tables_are_whole(shown: str) -> None:
    assert shown.count("<table>") >= 4
    assert "<td>90.00% ± 1.00</td>" not in shown  # a mean of 0.90, 0.91 and 0.92 is not 0.90
    assert "<td>91.00% ± 1.00</td>" in shown
