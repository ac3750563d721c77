"""The report in a real browser: no errors, no request, nothing wider than a phone."""

import re
from pathlib import Path

import pytest
from run_folders import FAILED, browsed, finished, needs_browser, scores

from evomerge.report.page import write_page

pytestmark = pytest.mark.thorough


FRAME = """<body style="margin:0"><iframe id="page" src="report.html"
style="width:{width}px;height:3000px;border:0"></iframe><script>
onload = () => {{
  const page = document.getElementById("page").contentDocument;
  const pictures = [...page.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect());
  const letters = [...page.querySelectorAll("svg text")].map(
    text => text.getBoundingClientRect().height);
  const found = [page.documentElement.scrollWidth, pictures.length,
                 Math.min(...pictures.map(box => box.height)), Math.min(...letters)];
  document.body.append("found " + found.join(" "));
}};
</script></body>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    outcomes = [FAILED if number == 2 else scores(number % 22) for number in range(30)]
    models = list(zip(["zoo:language", "uniform", *[None] * 28], outcomes, strict=True))
    finals, splits = {n: outcomes[n] for n in (0, 1, 21)}, ("validation", "test")
    names = ["layers[0:8].attention.a-long-name-of-a-parent.weight", "head.zoo:maths.density"]
    run = finished(folder / "run", models, finals, 21, splits, frozen={"genes": names})
    write_page(run, folder / "report.html")
    return folder


@needs_browser
@pytest.mark.parametrize("width", [1300, 400])
def test_a_browser_shows_all_of_it(folder: Path, width: int) -> None:
    (folder / "frame.html").write_text(FRAME.format(width=width))
    done = browsed(folder / "frame.html")
    assert "CONSOLE" not in done.stderr
    found = re.search(r"found ([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    wide, pictures, height, letters = map(float, found.groups())
    assert wide <= width, "the page scrolls sideways"
    assert pictures == 2 and height > 50
    assert letters >= 9, "letters of a picture are too small to read"


def test_the_page_asks_for_nothing(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!#|data:)", re.sub(r"xlink:href=", "", text))
    assert "@import" not in text and "url(http" not in text
