"""The report page in a real browser: it is all there, it is not blank, it fits, and the console stays silent."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from gated import make_gated
from page_before import make_before
from page_bundle import LADDER, answered, make_bundle, make_profile, make_refusals
from PIL import Image

from jetson_runtime.files import write_json
from refusal_suite.cli import main
from refusal_suite.page import SECTIONS

pytestmark = pytest.mark.browser

# Reports how wide the page is against its window, everything unfolded; it runs in the test's copy only, the page itself
# has no script.
MEASURE = """<script>
document.querySelectorAll('details').forEach(each => { each.open = true; });
document.title = document.documentElement.scrollWidth + '/' + window.innerWidth;
</script>"""

# Where the browser put both forms of both forest plots, and whether every word of them lies in the window.
FORESTS = """<script>
const box = name => document.querySelector('[aria-labelledby=' + name + '-title]').getBoundingClientRect();
const shown = ['bounds-wide', 'bounds-narrow', 'shifts-wide', 'shifts-narrow'].map(name => box(name).width > 0);
const words = Array.from(document.querySelectorAll('#gate svg.picture text')).map(each => each.getBoundingClientRect());
const inside = words.every(each => each.left >= 0 && each.right <= window.innerWidth);
const folded = Array.from(document.querySelectorAll('#gate details')).every(each => !each.open);
document.title = JSON.stringify([shown, words.length, inside, folded]);
</script>"""

# Where the browser put both forms of the picture, and both columns of the first row of the table below it.
COLUMNS = """<script>
const names = ['[aria-labelledby=pair-wide-title]', '[aria-labelledby=pair-narrow-title]',
  '.sides td', '.sides td + td'];
const boxes = names.map(name => document.querySelector(name).getBoundingClientRect());
document.title = JSON.stringify(boxes.map(box => [box.left, box.top, box.width]));
</script>"""


@pytest.fixture(scope="module")
def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    pytest.fail("no Chromium on PATH: 'apt-get install chromium', or deselect these tests with -m 'not browser'")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    bundle = make_bundle(folder / "bundle")
    bundle = bundle.with_profile(make_profile(bundle), "cpu")
    make_bundle(folder / "engines", kind="engine")
    write_json(folder / "refusals.json", make_refusals(bundle))
    write_json(
        folder / "answers.json",
        [{"question": "What is this?", "image": None, "budget_ms": 900.0, "answer": answered("A sign.", LADDER[0])}],
    )
    arguments = [
        "page",
        str(folder / "bundle"),
        "--engines",
        str(folder / "engines"),
        "--out",
        str(folder / "page.html"),
    ]
    write_json(folder / "before.json", make_before(make_refusals(bundle)))
    for name in ("refusals", "answers", "before"):
        arguments += [f"--{name}", str(folder / f"{name}.json")]
    arguments += ["--before-name", "aligned only"]
    assert main(arguments) == 0
    return folder / "page.html"


@pytest.fixture(scope="module")
def gated_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a bundle that the gate decided on."""
    pytest.importorskip("scipy", reason="the extra 'gate' is not installed")
    folder = tmp_path_factory.mktemp("gated")
    make_gated(folder)
    assert main(["page", str(folder / "bundle"), "--out", str(folder / "page.html")]) == 0
    return folder / "page.html"


def browse(chromium: str, page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}", *options, page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_sections_are_rendered_and_the_console_is_silent(chromium: str, page: Path, tmp_path: Path) -> None:
    done = browse(chromium, page, tmp_path, "--dump-dom")
    for name, _ in SECTIONS:
        assert f'<section id="{name}"' in done.stdout
    assert ":CONSOLE" not in done.stderr


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (500, False)])
def test_the_page_is_drawn(chromium: str, page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    shot = tmp_path / "shot.png"
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    browse(chromium, page, tmp_path, f"--window-size={width},2000", f"--screenshot={shot}", *scheme)
    with Image.open(shot) as image:
        pixels = image.convert("RGB")
    assert pixels.size == (width, 2000)
    counted = pixels.getcolors(maxcolors=pixels.width * pixels.height)
    assert counted is not None
    share = {colour: count / (pixels.width * pixels.height) for count, colour in counted}
    background = (16, 19, 22) if dark else (247, 248, 248)
    accent = (79, 192, 209) if dark else (10, 106, 123)
    assert share[background] > 0.05
    assert share[accent] > 0.001
    assert max(share.values()) < 0.95


def scripted(chromium: str, page: Path, tmp_path: Path, width: int, script: str) -> str:
    """The title that a script gives to a copy of the page."""
    copy = tmp_path / "copy.html"
    text = page.read_text(encoding="utf-8").replace("default-src 'none'; ", "")
    copy.write_text(text.replace("</body>", f"{script}</body>"), encoding="utf-8")
    dom = browse(chromium, copy, tmp_path, f"--window-size={width},2000", "--dump-dom").stdout
    return dom.split("<title>", 1)[1].split("</title>", 1)[0]


@pytest.mark.parametrize("width", [500, 800, 1280])
def test_nothing_sticks_out_to_the_side(chromium: str, page: Path, tmp_path: Path, width: int) -> None:
    needed, given = scripted(chromium, page, tmp_path, width, MEASURE).split("/")
    assert int(needed) <= int(given) == width


@pytest.mark.parametrize("width", [500, 1280])
def test_the_gate_s_part_is_drawn_and_fits(chromium: str, gated_page: Path, tmp_path: Path, width: int) -> None:
    shown, words, inside, folded = json.loads(scripted(chromium, gated_page, tmp_path, width, FORESTS))
    assert shown == [width == 1280, width == 500] * 2
    assert words > 60 and inside and folded
    needed, given = scripted(chromium, gated_page, tmp_path, width, MEASURE).split("/")
    assert int(needed) <= int(given) == width


def test_a_verdict_is_seen_by_its_colour(chromium: str, gated_page: Path, tmp_path: Path) -> None:
    text = gated_page.read_text(encoding="utf-8")
    start, end = text.index('<section id="gate"'), text.index('<section id="refusals"')
    alone = tmp_path / "gate.html"
    alone.write_text(text[: text.index("<main>")] + text[start:end] + text[text.index("</main>") :], encoding="utf-8")
    shot = tmp_path / "shot.png"
    done = browse(chromium, alone, tmp_path, "--window-size=1280,1600", f"--screenshot={shot}")
    assert ":CONSOLE" not in done.stderr
    with Image.open(shot) as image:
        counted = image.convert("RGB").getcolors(maxcolors=1280 * 1600)
    assert counted is not None
    colours = {colour: count for count, colour in counted}
    assert colours[10, 106, 123] > 1000 and colours[179, 54, 27] > 100


@pytest.mark.parametrize("width", [500, 1280])
def test_before_and_after_are_both_drawn(chromium: str, page: Path, tmp_path: Path, width: int) -> None:
    wide, narrow, before, after = json.loads(scripted(chromium, page, tmp_path, width, COLUMNS))
    assert (wide[2] > 0, narrow[2] > 0) == (width == 1280, width == 500)
    assert before[2] > 100 and after[2] > 100
    if width == 1280:
        assert before[1] == after[1] and after[0] >= before[0] + before[2]
    else:
        assert before[0] == after[0] and after[1] > before[1]
