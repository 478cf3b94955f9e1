"""The report as a browser shows it: headless Chromium, where there is one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
from typer.testing import CliRunner

from ssdml_fast.cli.app import app

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]

PROBE = """
<script>
addEventListener("load", () => {
  const shown = (image) => image.complete && image.naturalWidth > 0 && image.clientWidth > 0 && image.clientHeight > 0;
  document.documentElement.dataset.seen = JSON.stringify({
    pictures: [...document.images].map(shown),
    fetched: performance.getEntriesByType("resource").map((e) => e.name).filter((n) => !n.startsWith("data:")),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    hidden: [...document.querySelectorAll("section")].filter((s) => s.offsetHeight === 0).length,
  });
});
</script>
</head>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory, quick_maps):
    """The report of a short run."""
    folder = tmp_path_factory.mktemp("run")
    short = ["--rounds", 1, "--epochs", 1, "--partition-size", 460, "--metric-dim", 16, "--batch-size", 500]
    for arguments in (["train", *short, "--out", folder / "run"], ["report", folder / "run"]):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
    return folder / "run" / "report.html"


def opened(page, folder, width, probe=PROBE):
    """What a probe in the page saw once it was loaded in a window of that width, and what the console said."""
    probed = folder / "probed.html"
    probed.write_text(page.read_text(encoding="utf-8").replace("</head>", probe, 1), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", probed.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    seen = re.search(r'data-seen="([^"]*)"', shown.stdout)
    assert seen, shown.stderr
    return json.loads(seen[1].replace("&quot;", '"')), re.findall(r"CONSOLE.*", shown.stderr)


@pytest.mark.parametrize("width", [1200, 600])
def test_the_report_opens_with_every_figure_displayed(page, tmp_path, width):
    seen, said = opened(page, tmp_path, width)
    assert said == []
    assert len(seen["pictures"]) >= 4 and all(seen["pictures"])
    assert seen["fetched"] == [] and seen["hidden"] == 0
    assert seen["overflow"] <= 0


def test_a_broken_page_would_be_noticed(page, tmp_path):
    broken = tmp_path / "broken.html"
    text = page.read_text(encoding="utf-8")
    broken.write_text(
        text.replace("base64,iVBOR", "base64,iVBOX", 1).replace("</body>", "<script>oops()</script></body>")
    )
    seen, said = opened(broken, tmp_path, 1200)
    assert seen["pictures"].count(False) == 1
    assert any("oops is not defined" in line for line in said)
