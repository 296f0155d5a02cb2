"""The page in a real browser: it fits the window, sends no request and logs no error."""

import base64
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.report.folders import write_run, write_sweep
from train.report.make import ReportOptions, make_report

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on this machine")

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr", "--v=0"]
MEASURE = """<script>
function pieces(node) {  // the words of a cell, each as a range
  if (node.nodeType !== Node.TEXT_NODE) return [...node.childNodes].flatMap(pieces);
  return [...node.data.matchAll(/[^\\s=,./_:-]+/g)].map((word) => {
    const range = document.createRange();
    range.setStart(node, word.index);
    range.setEnd(node, word.index + word[0].length);
    return range;
  });
}
const isCut = (range) => new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1;
addEventListener("load", () => {
  const figures = [...document.images];
  document.body.dataset.measured = JSON.stringify({
    broken: figures.filter((image) => !(image.complete && image.naturalWidth > 300)).length,
    figures: figures.length,
    wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    requests: performance.getEntriesByType("resource").filter((entry) => !entry.name.startsWith("data:")).length,
    narrow: figures.filter((image) => image.width < Math.min(innerWidth - 40, 500)).length,
    scrolled: [...document.querySelectorAll(".scroll")].filter((box) => box.scrollWidth > box.clientWidth).length,
    cut: [...document.querySelectorAll("th")].flatMap((cell) => pieces(cell)).filter(isCut).length,
    font: getComputedStyle(document.querySelector("h1")).fontSize,
  }).replaceAll('"', "'");
});
</script>"""
"""Script inserted into a copy of the page whose content security policy is removed."""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    decay, dropout = "regularization=weight_decay", "regularization=weight_decay_dropout"
    means = {("norm=batch", decay): 0.80, ("norm=none", decay): 0.6, ("norm=batch", dropout): 0.79, ("norm=none", dropout): 0.5}
    sweep = write_sweep(folder / "sweep", {arm: (mean, mean + 0.02, mean + 0.05) for arm, mean in means.items()})
    for index, arm in enumerate(means):  # every cell of the table has its longest content: intervals, and why a run did not learn
        found = {"kind": "growth", "statistic": "activation_std", "layer": "stage1.act1", "step": 9}
        diverged = {"reason": "the loss became NaN at step 50", "diagnosis": found}
        write_run(folder / "sweep" / f"diverged_{index}", [*arm, "seed=9"], None, "diverged", status=diverged)
    return make_report([sweep], sweep, ReportOptions(tensorboard=False))[0]


def browse(page: Path, profile: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, timeout=60, check=True)


@pytest.mark.long
@needs_browser
@pytest.mark.parametrize("width", [390, 1280, 1440])
def test_page_fits_window_with_all_figures_and_no_request(page, tmp_path, width):
    copy = tmp_path / "copy.html"
    copy.write_text(re.sub(r"<meta http-equiv[^>]+>", "", page.read_text()).replace("</head>", f"{MEASURE}</head>"))
    result = browse(copy, tmp_path / "profile", f"--window-size={width},900", "--dump-dom")
    measured = re.search(
        rb"data-measured=\"\{'broken':(\d+),'figures':(\d+),'wider':(-?\d+),'requests':(\d+),'narrow':(\d+),"
        rb"'scrolled':(\d+),'cut':(\d+),'font':'([\d.]+)px'\}",
        result.stdout,
    )
    assert measured, result.stdout[-2000:]
    broken, figures, wider, requests, narrow, scrolled, cut = map(int, measured.groups()[:7])
    assert (broken, figures, requests) == (0, 6, 0)
    assert narrow == 0, "figures are as wide as the window"
    assert scrolled == 0, "tables fit without scrolling sideways"
    assert cut == 0, "words are cut at the end of a line"
    assert wider <= 0, f"{wider} pixels wider than the window"
    assert float(measured[8]) > 20, "the style sheet was not applied"


@pytest.mark.long
@needs_browser
def test_page_renders_without_console_messages(page, tmp_path):
    screenshot = tmp_path / "page.png"
    result = browse(page, tmp_path / "profile", "--window-size=1280,2000", f"--screenshot={screenshot}")
    assert b"CONSOLE" not in result.stderr, result.stderr.decode()
    assert screenshot.stat().st_size > 50_000


def test_figures_contain_all_their_text(page):
    """Text is drawn as glyphs, whose positions show whether any is cut off."""
    for encoded in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page.read_text()):
        svg = base64.b64decode(encoded).decode()
        size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
        assert size
        positions = re.findall(r'<g transform="translate\(([-\d.]+) ([-\d.]+)\)', svg)
        assert positions
        assert all(0 <= float(x) <= float(size[1]) and 0 <= float(y) <= float(size[2]) + 1 for x, y in positions)
