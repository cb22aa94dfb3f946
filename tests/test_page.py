"""The page of results: complete, escaped, self-contained, small, readable; and what a real browser does with it."""

import html
import html.parser
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from experiments import make_comparison, make_curve, make_experiment, make_point
from test_figures import contrast

from lra_tasks import page
from lra_tasks.tables import Table

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
VOID = {"meta", "link", "input", "br", "hr", "img"}
CELLS = ("45.65 ± 0.30 (3)", "not run", "9.10 (1)", "–", "101.00 (1)", "1,000.50", "−3.00 (2)")
TABLE = Table(
    "Accuracies & <more>",
    ("Model", "Accuracy"),
    (False, True),
    tuple((f"Model {number}", cell) for number, cell in enumerate(CELLS, 1)),
)
TITLES = {"luna16": "Luna-16", "linear": "Linear"}


def render(**changes) -> str:
    parts = {
        "tables": [TABLE],
        "experiments": [make_experiment(), make_experiment("linear", (30.0,), [make_curve((100, 250), (20.0, 31.0))])],
        "comparisons": [make_comparison("Luna-16", 2.0), make_comparison("Linear", -1.0)],
        "trade_offs": [make_point(title="Luna-16"), make_point("linear", 7.0, 44.0, title="Linear")],
        "notes": ["one note"],
        "cards": {"a run": "# Card\n\nText\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"},
        "titles": TITLES,
    }
    return page.render_page(**(parts | changes))


class Reader(html.parser.HTMLParser):
    """Tags with their attributes; says where tags are not closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.faults: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at line {self.getpos()[0]}")


def test_the_page_is_well_formed_and_stands_alone():
    text = render()
    reader = Reader(text)
    assert (reader.faults, reader.open) == ([], [])
    for tag, attributes in reader.tags:
        for name in ("src", "href", "data", "action", "srcset", "poster"):
            if attributes.get(name) is not None:
                assert str(attributes[name]).startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", text)
    assert text == render()


def test_every_cell_note_and_section_is_there_and_can_be_found():
    text = render()
    reader = Reader(text)
    for part in (*TABLE.header, *(cell for line in TABLE.lines for cell in line), "one note", "a run"):
        assert html.escape(part) in text
    identifiers = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    links = {str(attributes["href"])[1:] for tag, attributes in reader.tags if tag == "a"}
    labels = {attributes["aria-labelledby"] for _, attributes in reader.tags if "aria-labelledby" in attributes}
    assert links | labels <= set(identifiers)
    assert links == {"main", "tables", "differences", "trade-off", "curves", "cards", "notes"}
    headings = [tag for tag, _ in reader.tags if re.fullmatch("h[1-6]", tag)]
    assert headings == ["h1", "h2", "h2", "h2", "h2", "h2", "h3", "h2"]
    assert "<title>Long Range Arena in JAX: results</title>" in text
    assert "3 runs of 2 models on 1 task." in text


def test_what_records_say_is_text_and_never_markup():
    bad = "</script><script>alert('x')</script>\"&"
    table = Table(bad, (bad, "b"), (False, True), ((bad, bad),))
    text = render(
        tables=[table],
        experiments=[make_experiment(task_title=bad, variant=bad)],
        comparisons=[make_comparison(bad, 1.0, task_title=bad)],
        trade_offs=[make_point(title=bad, task_title=bad)],
        notes=[bad],
        cards={bad: f"{bad} ![picture](http://example.org/a.png) [link](javascript:alert(1))"},
    )
    reader = Reader(text)
    assert (reader.faults, reader.open) == ([], [])
    assert [attributes.get("type") for tag, attributes in reader.tags if tag == "script"] == ["application/json", None]
    assert "img" not in [tag for tag, _ in reader.tags]
    assert not any(str(attributes.get("href", "")).startswith("javascript") for _, attributes in reader.tags)
    assert bad in json.loads(find_data(text))[0]["series"][0]["label"]


def find_data(text: str) -> str:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return found[1]


def test_the_numbers_for_the_script_are_those_of_the_runs():
    first, second = json.loads(find_data(render()))[0]["series"]
    assert first == {
        "label": "Luna-16",
        **{"steps": [100, 200, 300], "mean": [20, 30, 45], "low": [20, 30, 40], "high": [20, 30, 50]},
    }
    assert second == {"label": "Linear", "steps": [100, 250], "mean": [20, 31]}


def test_a_page_without_data_says_so():
    text = page.render_page([], [], [], [], [], {})
    reader = Reader(text)
    assert (reader.faults, reader.open) == ([], [])
    assert "No run is recorded yet." in text
    assert not {"figure", "table", "section"} & {tag for tag, _ in reader.tags}


def test_sixty_experiments_make_a_small_page():
    steps = range(1000, 101000, 1000)
    curve = make_curve(steps, [40 + step / 1e4 for step in steps])
    experiments = [
        make_experiment(row, (50.0, 51.0, 52.0), [curve] * 3, task=task, task_title=task)
        for task, row in itertools.product(
            ("listops", "text", "retrieval", "image", "pathfinder", "pathx"),
            (
                "transformer",
                "local",
                "sparse",
                "longformer",
                "linformer",
                "reformer",
                "linear",
                "luna16",
                "rfa",
                "bigbird",
            ),
        )
    ]
    assert len(render(experiments=experiments).encode()) < 1_000_000


def test_text_can_be_read_on_every_ground_in_both_themes():
    style = page.TEMPLATE.read_text()
    pairs = dict(re.findall(r"--(\w+): (light-dark\([^)]*\))", style))
    colours = {name: re.findall("#[0-9a-f]{6}", pair) for name, pair in pairs.items()}
    for theme, ink, ground in itertools.product((0, 1), ("text", "soft", "link"), ("page", "box", "faint")):
        assert contrast(colours[ink][theme], colours[ground][theme]) >= 4.5, (theme, ink, ground)
    for theme, ink in itertools.product((0, 1), ("good", "bad")):
        assert contrast(colours[ink][theme], colours["page"][theme]) >= 3, (theme, ink)


# Opens the page in a frame as wide as a telephone, uses it as a reader would, and writes down what came of it.
HARNESS = """<!DOCTYPE html><meta charset="utf-8"><iframe id="frame" style="width:360px;height:800px;border:0"></iframe>
<pre id="results"></pre><script>
const text = TEXT, frame = document.getElementById("frame");
frame.onload = () => {
  const page = frame.contentDocument, view = frame.contentWindow, results = {};
  const all = (selector, part = page) => [...part.querySelectorAll(selector)];

  const names = () => all("tbody tr", page.querySelector("table.sortable")).map((row) => row.cells[0].textContent);
  const button = page.querySelectorAll("thead button")[1], heading = button.parentElement;
  results.orders = [[heading.getAttribute("aria-sort"), ...names()]];
  for (let click = 0; click < 3; click++) {
    button.click();
    results.orders.push([heading.getAttribute("aria-sort"), ...names()]);
  }
  button.focus();
  results.focused = page.activeElement === button;

  const colour = () => view.getComputedStyle(page.body).backgroundColor, theme = page.getElementById("theme");
  results.colours = [colour()];
  for (let click = 0; click < 2; click++) {
    theme.click();
    results.colours.push(colour());
  }

  results.width = [view.innerWidth, page.documentElement.scrollWidth - page.documentElement.clientWidth];

  const chart = page.querySelector("figure.curves"), svg = chart.querySelector("svg");
  const slider = chart.querySelector("input"), box = svg.getBoundingClientRect();
  const values = () => [chart.querySelector("output"), ...all(".value", chart)].map((element) => element.textContent);
  results.values = [values()];
  const where = { clientX: box.left + box.width / 2, clientY: box.top + 5 };
  svg.dispatchEvent(new view.PointerEvent("pointermove", where));
  results.values.push(values());
  slider.value = 0;
  slider.dispatchEvent(new view.Event("input"));
  results.values.push(values());

  const key = chart.querySelector("button.key");
  const drawn = () => all('svg [data-key="Luna-16"]').map((part) => view.getComputedStyle(part).display !== "none");
  results.drawn = [[key.getAttribute("aria-pressed"), ...drawn()]];
  key.click();
  results.drawn.push([key.getAttribute("aria-pressed"), ...drawn()]);

  page.querySelector(".circle").dispatchEvent(new view.PointerEvent("pointerenter"));
  results.readout = page.querySelector(".readout").textContent;
  document.getElementById("results").textContent = JSON.stringify(results);
};
frame.srcdoc = text;
</script>"""


needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on the PATH: what a browser does with the page is not seen"
)


def open_in_chromium(file: Path, *options: str) -> str:
    """The document as scripts left it. Nothing may be written to the console."""
    common = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    common += [f"--user-data-dir={file.parent}/profile", "--dump-dom", f"file://{file}"]
    done = subprocess.run([str(CHROMIUM), *options, *common], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


@needs_chromium
@pytest.mark.parametrize(("preference", "offer"), [(0, "Light colours"), (1, "Dark colours")])
def test_the_page_follows_the_theme_of_the_system(tmp_path: Path, preference: int, offer: str):
    (tmp_path / "index.html").write_text(
        render().replace("</body>", "<script>document.title = getComputedStyle(document.body).color</script></body>"),
        encoding="utf-8",
    )
    document = open_in_chromium(tmp_path / "index.html", f"--blink-settings=preferredColorScheme={preference}")
    assert f'<button type="button" id="theme">{offer}</button>' in document
    assert f"<title>{['rgb(230, 232, 235)', 'rgb(27, 31, 36)'][preference]}</title>" in document


@needs_chromium
def test_a_browser_sorts_changes_theme_fits_a_telephone_and_reads_curves(tmp_path: Path):
    text = json.dumps(render()).replace("</", "<\\/")
    (tmp_path / "harness.html").write_text(HARNESS.replace("TEXT", text, 1), encoding="utf-8")
    found = re.search(r'<pre id="results">(.+?)</pre>', open_in_chromium(tmp_path / "harness.html"))
    assert found
    results = json.loads(html.unescape(found[1]))
    orders = [(None, "1234567"), ("ascending", "7315624"), ("descending", "6513724"), (None, "1234567")]
    assert results["orders"] == [[aria, *(f"Model {number}" for number in numbers)] for aria, numbers in orders]
    assert results["focused"]
    assert set(results["colours"]) == {"rgb(255, 255, 255)", "rgb(21, 24, 28)"}
    assert results["colours"][0] == results["colours"][2] != results["colours"][1]
    assert results["width"] == [360, 0]
    assert results["values"] == [
        ["300", "45.00 (40.0 to 50.0)", "31.00 at 250"],
        ["200", "30.00 (30.0 to 30.0)", "31.00 at 250"],
        ["100", "20.00 (20.0 to 20.0)", "20.00"],
    ]
    assert results["drawn"] == [["true", True, True, True], ["false", False, False, False]]
    assert results["readout"] == "Luna-16: 45.00 % (44.00 to 46.00), 5 steps a second, 1 GB"
