"""The page in a real browser: it is shown whole, asks nothing of the network and complains of nothing."""

import base64
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.report.folders import write_sweep
from train.report.make import ReportOptions, make_report

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BROWSER is None, reason="no chromium or google-chrome on this machine: the page was not looked at in a browser"
    ),
]

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr", "--v=0"]
MEASURE = """<script>
addEventListener("load", () => {
  const figures = [...document.images];
  document.body.dataset.seen = JSON.stringify({
    broken: figures.filter((image) => !(image.complete && image.naturalWidth > 300)).length,
    figures: figures.length,
    wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    requests: performance.getEntriesByType("resource").filter((one) => !one.name.startsWith("data:")).length,
    font: getComputedStyle(document.querySelector("h1")).fontSize,
  }).replaceAll('"', "'");
});
</script>"""
"""Put into a copy of the page, without its ban on scripts."""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    means = {("norm=batch", "init=kaiming"): 0.80, ("norm=none", "init=kaiming"): 0.6, ("norm=batch", "init=xavier"): 0.79}
    arms = {arm: (mean, mean + 0.02) for arm, mean in (means | {("norm=none", "init=xavier"): 0.5}).items()}
    return make_report([write_sweep(folder / "sweep", arms)], folder / "sweep", ReportOptions(tensorboard=False))


def browse(page: Path, profile: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, timeout=60, check=True)


@pytest.mark.parametrize("width", [480, 1280])
def test_the_page_fits_its_window_with_all_figures_and_no_request(page, tmp_path, width):
    copy = tmp_path / "copy.html"
    copy.write_text(re.sub(r"<meta http-equiv[^>]+>", "", page.read_text()).replace("</head>", f"{MEASURE}</head>"))
    shown = browse(copy, tmp_path / "profile", f"--window-size={width},900", "--dump-dom")
    seen = re.search(
        rb"data-seen=\"\{'broken':(\d+),'figures':(\d+),'wider':(-?\d+),'requests':(\d+),'font':'([\d.]+)px'\}", shown.stdout
    )
    assert seen, shown.stdout[-2000:]
    broken, figures, wider, requests = map(int, seen.groups()[:4])
    assert (broken, figures, requests) == (0, 6, 0)
    assert wider <= 0, f"{wider} pixels wider than the window"
    assert float(seen[5]) > 20, "the style sheet was not applied"


def test_the_console_stays_empty_and_the_picture_does_not(page, tmp_path):
    picture = tmp_path / "page.png"
    shown = browse(page, tmp_path / "profile", "--window-size=1280,2000", f"--screenshot={picture}")
    assert b"CONSOLE" not in shown.stderr, shown.stderr.decode()
    assert picture.stat().st_size > 50_000


def test_no_text_of_a_figure_lies_outside_of_it(page):
    """Text is drawn as glyphs, whose places say whether some of it was cut off."""
    for encoded in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page.read_text()):
        svg = base64.b64decode(encoded).decode()
        found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
        assert found
        places = re.findall(r'<g transform="translate\(([-\d.]+) ([-\d.]+)\)', svg)
        assert places
        assert all(0 <= float(x) <= float(found[1]) and 0 <= float(y) <= float(found[2]) + 1 for x, y in places)
