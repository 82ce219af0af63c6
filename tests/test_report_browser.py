"""The report in a real browser, headless Chromium: drawn, searched, walked by keyboard, on three widths and in both themes."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from report_run import HOSTILE, TRAITS, make_long_run, make_run
from test_report_compared import add_comparisons
from traitline.report.comparison_page import write_comparison
from traitline.report.page import render
from traitline.report.tables import read_run

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")

WIDTHS, THEMES = (360, 768, 1300), ("light", "dark")
ATTACK = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'><a href='javascript:broken=1'>x</a>"
FEW, MANY = 5_000, 100_000
LEAST_CONTRAST = 4.5
# every text that is seen: its contrast with what lies behind it, where that is too little
PALE = """(least) => {
  const parse = (c) => {
    const m = c.match(/[\\d.]+/g).map(Number);
    return { rgb: m.slice(0, 3), a: m.length > 3 ? m[3] : 1 };
  };
  const linear = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const lum = (rgb) => rgb.map(linear).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const c = parse(getComputedStyle(at).backgroundColor);
      if (c.a === 1) return c.rgb;
    }
    return [255, 255, 255];
  };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const box = node.parentElement;
    const never = ["SCRIPT", "STYLE", "NOSCRIPT", "OPTION"].includes(box.tagName);
    if (!node.data.trim() || never || !box.checkVisibility() || box.disabled) continue;
    const svg = box.closest("svg");
    if (svg && box.closest(".textpoint") && svg.querySelector(".hm")) continue; // on a cell's colour, not the page's
    texts += 1;
    const style = getComputedStyle(box), ink = parse(svg ? style.fill : style.color);
    const ground = behind(svg ? svg.parentElement : box);
    const [a, b] = [lum(ink.rgb), lum(ground)].sort((x, y) => x - y), ratio = (b + 0.05) / (a + 0.05);
    if (ratio < least) found.push(`${ratio.toFixed(2)} ${box.tagName}.${box.getAttribute("class")} ${node.data.slice(0, 30)}`);
  }
  return [texts, found];
}"""


# every number in a cell: its left end, its middle, and its colour
INKS = """(chart) => [...chart.querySelectorAll(".textpoint text")].map((text) => {
  const box = text.getBoundingClientRect(), from = chart.getBoundingClientRect();
  return [box.left - from.left, box.top + box.height / 2 - from.top, getComputedStyle(text).fill.match(/\\d+/g).map(Number)];
})"""


def contrast(a: Sequence[int], b: Sequence[int]) -> float:
    """Return the contrast of two colours as WCAG counts it."""

    def luminance(colour: Sequence[int]) -> float:
        parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def until(page: Any, expression: str, seconds: float = 20) -> None:
    ends = time.perf_counter() + seconds
    while not page.evaluate(expression):
        assert time.perf_counter() < ends, f"never became true: {expression}"
        page.wait_for_timeout(20)


class Sight:
    """A page opened in the browser, with everything it complained of."""

    def __init__(
        self, browser: Any, path: Path, *, place: str = "", width: int = 1300, theme: str = "light", **options: Any
    ) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append("dialog"), dialog.dismiss()))
        self.page.on(
            "request",
            lambda asked: None if asked.url.startswith(("file:", "data:", "blob:")) else self.complaints.append(asked.url),
        )
        begun = time.perf_counter()
        self.page.goto(path.resolve().as_uri() + place)
        if self.page.query_selector("#browser"):
            self.page.wait_for_selector("#browser[data-ready]", state="attached", timeout=30_000)
        self.seconds = time.perf_counter() - begun

    def draw_everything(self) -> None:
        """Show every trait and scroll through the page, so that every chart is drawn."""
        for select in self.page.query_selector_all(f"select:has(option[value='{TRAITS[0]}']):has(option[value=''])"):
            if not select.get_attribute("name"):
                select.select_option("")
        for chart in self.page.query_selector_all(".chart"):
            chart.scroll_into_view_if_needed()
        self.until("[...document.querySelectorAll('.chart')].every((c) => c.dataset.drawn)")

    def until(self, expression: str) -> None:
        """Wait until something is so; the page's policy lets the browser's own waiting evaluate nothing."""
        until(self.page, expression)

    @property
    def count(self) -> str:
        return str(self.page.inner_text(".found"))

    @property
    def texts(self) -> list[str]:
        return [article.inner_text() for article in self.page.query_selector_all("article.pair")]

    def choose(self, name: str, value: str) -> None:
        self.page.select_option(f"select[name={name}]", value)

    def search(self, words: str) -> float:
        """Type words and return the milliseconds until the count has changed."""
        return float(
            self.page.evaluate(
                """async (words) => {
                  const input = document.querySelector("input[name=q]"), found = document.querySelector(".found");
                  const begun = performance.now();
                  const all = { childList: true, characterData: true, subtree: true };
                  const changed = new Promise((go) => new MutationObserver(go).observe(found, all));
                  input.value = words;
                  input.dispatchEvent(new Event("input", { bubbles: true }));
                  await changed;
                  await new Promise(requestAnimationFrame);
                  return performance.now() - begun;
                }""",
                words,
            )
        )

    def filter(self, name: str, value: str) -> float:
        """Choose a filter and return the milliseconds until the page shows it."""
        return float(
            self.page.evaluate(
                """async ([name, value]) => {
                  const select = document.querySelector(`select[name=${name}]`), begun = performance.now();
                  select.value = value;
                  select.dispatchEvent(new Event("change", { bubbles: true }));
                  await new Promise(requestAnimationFrame);
                  return performance.now() - begun;
                }""",
                [name, value],
            )
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as found:
        options = ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []
        opened = found.chromium.launch(executable_path=CHROMIUM, args=options)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_comparisons(make_run(tmp_path_factory.mktemp("run") / "nano", questions=4))


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    (run / "report.html").write_text(render(read_run(run)), encoding="utf-8")
    return run / "report.html"


@pytest.fixture(scope="module")
def comparison(run: Path, page: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other")
    other = make_run(folder / "second", questions=1, traits=("evil", "humorous"), strategies=("character",), seed=5)
    return write_comparison([run, other], folder / "both")


@pytest.fixture
def sight(browser: Any, page: Path) -> Iterator[Sight]:
    opened = Sight(browser, page)
    yield opened
    opened.context.close()


@pytest.fixture(scope="module")
def drawn(browser: Any, page: Path) -> Iterator[Sight]:
    """A page with every chart drawn, for what leaves it as it was or undoes its own choices."""
    opened = Sight(browser, page)
    opened.draw_everything()
    yield opened
    opened.context.close()


def test_every_chart_is_drawn_with_its_numbers_and_nothing_complains(drawn: Sight) -> None:
    sight = drawn
    charts = sight.page.query_selector_all(".chart")
    assert len(charts) > 60
    for chart in charts:
        assert chart.evaluate("(c) => c.querySelectorAll('svg path, svg image').length") > 0
        assert chart.get_attribute("aria-label")
    for numbers in sight.page.query_selector_all(".behind")[::7]:
        numbers.evaluate("(one) => { one.open = true; }")
        numbers.wait_for_selector("td")
    assert sight.complaints == []


@pytest.mark.parametrize("theme", THEMES)
def test_numbers_in_cells_can_be_read_on_every_colour(browser: Any, page: Path, theme: str) -> None:
    sight = Sight(browser, page, theme=theme)
    ratios = []
    for chart in sight.page.query_selector_all("[data-strategies] .chart, [data-crossed=effects] .chart"):
        chart.scroll_into_view_if_needed()
        chart.wait_for_selector(".textpoint text")
        picture = Image.open(io.BytesIO(chart.screenshot())).convert("RGB")
        for x, y, ink in chart.evaluate(INKS):
            ratios.append(contrast(picture.getpixel((round(x) - 3, round(y))), ink))
    assert len(ratios) > 40
    assert min(ratios) >= LEAST_CONTRAST
    sight.context.close()


def test_strategies_stand_against_each_other_and_holes_are_told(sight: Sight) -> None:
    first = sight.page.query_selector("[data-strategies] figure")
    first.scroll_into_view_if_needed()
    first.wait_for_selector(".textpoint text")
    written = [text.text_content() for text in first.query_selector_all(".textpoint text")]
    assert written == ["+20*", "+10", "+30*", "–", "×", "×"]
    assert [tick.text_content() for tick in first.query_selector_all(".xtick text")] == ["character", "instruction", "common"]
    assert first.query_selector(".note").inner_text() == "– not evaluated: 1, × no vector: 2"
    spoken = first.query_selector(".chart").get_attribute("aria-label")
    assert "delta from +10.0 to +30.0, 2 of 6 steerable" in spoken
    first.query_selector("summary").click()
    assert "+20.0 [+15.0, +25.0] *" in first.wait_for_selector("tbody tr").inner_text()
    sight.page.select_option("[data-strategies] select", "nano-sft")
    again = sight.page.query_selector("[data-strategies] figure")
    again.wait_for_selector(".textpoint text")
    assert [text.text_content() for text in again.query_selector_all(".textpoint text")] == ["+15*", "×"]
    assert sight.complaints == []


def test_stages_and_descendants_are_told_in_words_and_drawn(drawn: Sight) -> None:
    sight = drawn
    level, refusals, projection = sight.page.query_selector_all("[data-stages] .chart")[:3]
    assert "character step976 40, nano-sft 30, nano-dpo 20" in level.get_attribute("aria-label")
    assert "nano-dpo 20" not in level.get_attribute("aria-label").split("instruction")[1]  # its score is missing
    assert "character step976 0 %, nano-sft 25 %, nano-dpo 50 %" in refusals.get_attribute("aria-label")
    assert [tick.text_content() for tick in projection.query_selector_all(".xtick text")] == ["step976", "nano-sft", "nano-dpo"]
    assert len(level.query_selector_all(".scatterlayer .point")) == 5
    sources = sight.page.query_selector("[data-descendants] .chart")
    assert "vector of nano-sft: +12.0 on step976, +12.0 on nano-sft, +12.0 on nano-dpo" in sources.get_attribute("aria-label")
    keys = [key.inner_text() for key in sight.page.query_selector_all("[data-descendants] .keyed")]
    assert keys == ["vector of step976", "vector of nano-sft", "vector of nano-dpo"]
    assert sight.complaints == []


@pytest.mark.parametrize("which", ["page", "comparison"])
@pytest.mark.parametrize(("width", "themes"), [(360, THEMES), (768, THEMES[::-1]), (1300, THEMES)])
def test_it_fits_every_width_and_can_be_read_in_both_themes(
    browser: Any, which: str, width: int, themes: tuple[str, str], request: pytest.FixtureRequest
) -> None:
    """A page is opened in one theme and turned to the other before the reader's eyes; each theme comes first at some width."""
    sight = Sight(browser, request.getfixturevalue(which), width=width, theme=themes[0])
    if width == WIDTHS[0]:
        sight.page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    sight.page.evaluate("document.querySelector('.chart').scrollIntoView()")
    sight.until("document.querySelector('.chart').dataset.drawn")
    for theme in themes:
        sight.page.emulate_media(color_scheme=theme)
        light = str(theme == "light").lower()
        sight.until(f"(getComputedStyle(document.body).backgroundColor === 'rgb(255, 255, 255)') === {light}")
        for _ in range(100):  # a chart is drawn again some frames later
            texts, pale = sight.page.evaluate(PALE, LEAST_CONTRAST)
            if not pale:
                break
            sight.page.wait_for_timeout(50)
        assert texts > 100
        assert pale == []
        assert sight.page.evaluate("document.documentElement.scrollWidth") <= width
    assert sight.complaints == []
    sight.context.close()


def test_filters_search_and_order_change_what_is_shown(drawn: Sight) -> None:
    sight = drawn
    sight.page.click("button[type=reset]")
    assert "vector of step976" in sight.texts[0]
    begun = sight.count
    for name, value in (("trait", "humorous"), ("strategy", "instruction"), ("vector", "step160")):
        before = sight.texts
        sight.choose(name, value)
        assert sight.texts != before
    assert begun != sight.count
    assert all("humorous · instruction · vector of step160" in text for text in sight.texts)
    sight.choose("condition", "shuffled")
    assert all("shuffled, layer 2, 0.5 × activation norm" in text for text in sight.texts)
    sight.page.click("button[type=reset]")
    sight.search('wallet (2) "laughed, kept"')
    assert sight.texts
    assert all("(2)" in text and "laughed, kept" in text for text in sight.texts)
    assert sight.page.inner_text("mark >> nth=0") in ("wallet", "(2)")
    sight.search("nowhere to be found")
    assert sight.count.startswith("No pair of")
    assert sight.texts == []
    sight.search("")
    sight.choose("only", "missing")
    assert all("no score: no mass on numbers" in text for text in sight.texts)
    sight.choose("only", "")
    sight.choose("sort", "delta")
    changes = [pd.to_numeric(text.split("trait ")[1].split()[0].replace("−", "-").replace("±", "")) for text in sight.texts]
    assert changes == sorted(changes, reverse=True)
    assert sight.complaints == []


def test_counts_beside_a_choice_are_what_choosing_it_shows(drawn: Sight) -> None:
    sight = drawn
    sight.page.click("button[type=reset]")
    sight.choose("vector", "")
    sight.choose("condition", "")
    for name in ("trait", "kind", "dose"):
        options = [option.inner_text() for option in sight.page.query_selector_all(f"select[name={name}] option")][1:]
        values = sight.page.eval_on_selector(f"select[name={name}]", "(s) => [...s.options].slice(1).map((o) => o.value)")
        sight.choose(name, values[-1])
        assert f" {options[-1].rsplit('(', 1)[1][:-1]} pairs that fit" in sight.count
        sight.choose(name, "")


def test_a_link_leads_to_the_same_state_and_follows_it(browser: Any, page: Path) -> None:
    place = "#responses?trait=evil&vector=&q=wallet+%282%29&sort=score-up&page=2&condition=random+%28isotropic%29"
    sight = Sight(browser, page, place=place)
    assert sight.page.input_value("select[name=trait]") == "evil"
    assert sight.page.input_value("input[name=q]") == "wallet (2)"
    assert sight.count.startswith("Showing 11 to ")
    assert all("random (isotropic)" in text for text in sight.texts)
    sight.until("document.getElementById('browser').getBoundingClientRect().top < innerHeight")
    sight.choose("trait", "impolite")
    sight.until("location.hash.includes('trait=impolite')")
    assert "page=" not in sight.page.evaluate("location.hash")
    again = Sight(browser, page, place=sight.page.evaluate("location.hash"))
    assert again.texts == sight.texts
    nonsense = Sight(browser, page, place="#responses?trait=__proto__&sort=constructor&only=toString&page=-7&per=1e9&x=y")
    assert nonsense.count.startswith("Showing 1 to 10 of")
    assert sight.complaints == again.complaints == nonsense.complaints == []
    for one in (sight, again, nonsense):
        one.context.close()


def test_script_in_texts_names_and_settings_stays_text(browser: Any, tmp_path: Path) -> None:
    path = add_comparisons(make_run(tmp_path / "nano", questions=1, traits=("evil", "humorous"), strategies=("character",)))
    for file in (path / "tables").glob("*.csv"):
        file.write_text(
            file.read_text().replace("evil", "<img src=x onerror=broken=1>").replace("step976", "javascript:broken=1//<b>")
        )
    study = (path / "study.yaml").read_text().replace("name: nano", f'name: "{ATTACK}"')
    (path / "study.yaml").write_text(study)
    for file in path.rglob("*.parquet"):
        rows = pd.read_parquet(file).replace({"trait": {"evil": "<img src=x onerror=broken=1>"}})
        rows["vector_checkpoint"] = rows["vector_checkpoint"].replace("step976", "javascript:broken=1//<b>")
        rows["question"] = ATTACK + rows["question"]
        rows["missing_reason"] = ATTACK
        rows.assign(response=ATTACK + rows["response"]).to_parquet(file)
    (path / "report.html").write_text(render(read_run(path)), encoding="utf-8")
    both = write_comparison(
        [path, make_run(tmp_path / "b", questions=1, traits=("evil",), strategies=("character",))], tmp_path / "c"
    )
    for file in (path / "report.html", both):
        sight = Sight(browser, file)
        sight.draw_everything()
        if file != both:
            sight.choose("condition", "")
            sight.choose("vector", "")
            sight.search("onerror")
            assert ATTACK in sight.texts[0]
            assert HOSTILE[0] in "".join(sight.texts)
        assert sight.page.evaluate("typeof window.broken") == "undefined"
        assert sight.page.query_selector("img, main a[href^='javascript']") is None
        assert ATTACK in sight.page.inner_text("h1")
        assert sight.complaints == []
        sight.context.close()


def test_everything_can_be_reached_and_used_by_keyboard(sight: Sight) -> None:
    sight.page.keyboard.press("Tab")
    assert sight.page.evaluate("document.activeElement.className") == "skip"
    assert sight.page.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
    reached, outlined = set(), True
    count = sight.page.evaluate(
        """() => { const stops = 'a[href], button:not(:disabled), select, input, summary, [tabindex="0"]';
        const all = [...document.querySelectorAll(stops)].filter((e) => e.checkVisibility());
        all.forEach((e, i) => { e.dataset.stop = i; }); return all.length; }"""
    )
    for _ in range(count + 5):
        stop, ring = sight.page.evaluate(
            "[document.activeElement.dataset.stop, getComputedStyle(document.activeElement).outlineStyle !== 'none']"
        )
        if stop is not None:
            reached.add(stop)
            outlined &= ring
        sight.page.keyboard.press("Tab")
    assert len(reached) == count
    assert outlined
    sight.page.focus("article.pair")
    for key, place in (
        ("ArrowDown", "2"),
        ("ArrowDown", "3"),
        ("ArrowUp", "2"),
        ("End", "10"),
        ("ArrowDown", "11"),
        ("ArrowUp", "10"),
        ("Home", "1"),
    ):
        sight.page.keyboard.press(key)
        assert sight.page.evaluate("document.activeElement.getAttribute('aria-posinset')") == place


@pytest.mark.parametrize("which", ["page", "comparison"])
def test_a_screen_reader_finds_landmarks_headings_and_names(browser: Any, which: str, request: pytest.FixtureRequest) -> None:
    sight = Sight(browser, request.getfixturevalue(which))
    levels = sight.page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert sight.page.evaluate("['main', 'header', 'nav[aria-label]'].every((s) => document.querySelector(s))")
    unnamed = sight.page.evaluate(
        """[...document.querySelectorAll('select, input, button, summary, a, [role=region], [role=img], section, nav')]
        .filter((e) => !e.getAttribute('aria-label') && !document.getElementById(e.getAttribute('aria-labelledby')))
        .filter((e) => !e.labels?.length && !e.textContent.trim())
        .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert unnamed == []
    ids = sight.page.evaluate(
        "[...document.querySelectorAll('[id]')].map((e) => e.id).filter((id) => !/^[0-9a-f]{6}|clip|topdefs|legend/.test(id))"
    )
    assert len(ids) == len(set(ids))
    if which == "page":
        assert sight.page.get_attribute(".found", "role") == "status"
    sight.context.close()


def test_without_the_unpacker_the_page_says_so_and_charts_remain(browser: Any, page: Path) -> None:
    context = browser.new_context()
    context.add_init_script("delete window.DecompressionStream")
    opened = context.new_page()
    opened.goto(page.resolve().as_uri())
    until(opened, "document.querySelector('.found').textContent.includes('cannot unpack')")
    opened.wait_for_selector(".chart", state="attached")
    context.close()


def test_damaged_responses_are_told(browser: Any, page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    start = text.index('id="packed">') + 400
    (tmp_path / "report.html").write_text(text[:start] + "AAAAAAAA" + text[start + 8 :], encoding="utf-8")
    opened = browser.new_page()
    opened.goto((tmp_path / "report.html").as_uri())
    until(opened, "document.querySelector('.found').textContent.includes('damaged')")
    opened.close()


def test_many_charts_show_one_trait_at_a_time_and_all_on_paper(sight: Sight) -> None:
    def shown(selector: str) -> list[str]:
        charts = sight.page.query_selector_all(f"{selector} > figure")
        return sorted({chart.get_attribute("data-trait") for chart in charts if chart.is_visible()})

    emergence, choice = "[data-effects=emergence]", "#emergence label:has-text('trait') select"
    assert shown(emergence) == [TRAITS[0]]
    sight.page.select_option(choice, TRAITS[2])
    assert shown(emergence) == [TRAITS[2]]
    sight.page.select_option("#emergence label:has-text('dose') select", index=1)
    assert shown(emergence) == [TRAITS[2]]
    hidden = sight.page.query_selector_all(f"{emergence} .other .chart")
    assert hidden
    assert not any(chart.get_attribute("data-drawn") for chart in hidden)
    sight.page.select_option("#geometry label:has-text('trait') select", TRAITS[1])
    assert shown("[data-geometry=trajectories]") == shown("[data-geometry=matrices]") == [TRAITS[1]]
    sight.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert shown(emergence) == shown("[data-geometry=matrices]") == sorted(TRAITS)
    sight.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert shown(emergence) == [TRAITS[2]]
    sight.page.select_option(choice, "")
    assert shown(emergence) == sorted(TRAITS)
    assert sight.complaints == []


@pytest.mark.parametrize("width", WIDTHS)
def test_the_overview_of_the_verdicts_leads_to_their_words(browser: Any, page: Path, width: int) -> None:
    sight = Sight(browser, page, width=width)
    box = sight.page.query_selector(".overview")
    heads = [head.inner_text() for head in box.query_selector_all("thead th[scope=col]")]
    assert heads == ["strategy", "own vectors", "on step976", "on nano-chat"]
    assert [head.inner_text() for head in box.query_selector_all("th[scope=rowgroup]")] == list(TRAITS)
    assert len(box.query_selector_all("tbody th[scope=row]")) == 3 * len(TRAITS)
    goes_on = box.evaluate("(one) => one.scrollWidth > one.clientWidth")
    assert sight.page.is_visible(".hint") == goes_on
    assert goes_on == (width == WIDTHS[0])
    row = box.query_selector_all("tbody th[scope=row]")[2]
    row.evaluate("(head) => scrollTo(0, head.getBoundingClientRect().top + scrollY + 20)")  # just above the window
    places = row.evaluate("(head) => [head, head.nextElementSibling].map((cell) => cell.getBoundingClientRect().top)")
    assert places[0] == pytest.approx(places[1], abs=1)
    for link in (box.query_selector_all("td a")[i] for i in (0, 2, -1)):
        place = link.get_attribute("href")
        assert not sight.page.is_visible(place)
        link.focus()
        sight.page.keyboard.press("Enter")
        sight.page.wait_for_selector(place, state="visible")
        sight.page.evaluate("for (const one of document.querySelectorAll('details')) one.open = false")
        link.click()  # the same link again
        sight.page.wait_for_selector(place, state="visible")
        sight.page.evaluate("for (const one of document.querySelectorAll('details')) one.open = false")
    assert sight.complaints == []
    sight.context.close()


def test_print_is_light_and_has_every_chart(browser: Any, page: Path) -> None:
    sight = Sight(browser, page, theme="dark")
    sight.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert sight.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert sight.page.evaluate("[...document.querySelectorAll('.chart')].every((c) => c.querySelector('svg'))")
    sight.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert sight.page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    sight.context.close()


def test_a_comparison_draws_every_run_and_links_to_its_page(browser: Any, comparison: Path) -> None:
    sight = Sight(browser, comparison)
    sight.draw_everything()
    first = sight.page.query_selector(".chart")
    dashes = first.evaluate(
        """(c) => [...new Set([...c.querySelectorAll('.scatterlayer .js-line')]
        .map((p) => p.style.strokeDasharray + p.style.stroke))]"""
    )
    assert len(dashes) == 2
    assert {"nano", "second"} <= {key.inner_text() for key in sight.page.query_selector_all("figure:first-child .keyed")}
    for link in sight.page.query_selector_all("header li a"):
        assert Path(link.evaluate("(a) => decodeURIComponent(new URL(a.href).pathname)")).is_file()
    assert sight.complaints == []
    sight.context.close()


@pytest.mark.parametrize("pairs", [FEW, pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_it_stays_fast_however_many_responses(browser: Any, tmp_path: Path, pairs: int) -> None:
    path = make_long_run(tmp_path / "nano", pairs=pairs)
    begun = time.process_time()
    (path / "report.html").write_text(render(read_run(path)), encoding="utf-8")
    written = time.process_time() - begun
    sight = Sight(browser, path / "report.html")
    sight.choose("vector", "")
    sight.choose("condition", "")
    assert f"of {pairs:,} pairs that fit, of {pairs:,}." in sight.count
    word = sight.texts[0].split()[-12]
    times = {"filter": median(sight.filter("trait", trait) for trait in (*TRAITS, ""))}
    times["search"] = median(sight.search(words) for words in (word, "e", "nothing like it", "wallet 7", f"{word} mara"))
    sight.search("")
    times["sort"] = median(sight.filter("sort", key) for key in ("delta", "score", "coherence"))
    print(f"{pairs} pairs: written in {written:.1f} s, {(path / 'report.html').stat().st_size / 1e6:.1f} MB, "
          f"ready after {sight.seconds:.2f} s, ms: { {name: round(value) for name, value in times.items()} }")  # fmt: skip
    assert written < 15
    assert sight.seconds < 8
    assert max(times.values()) < 300
    assert sight.complaints == []
    sight.context.close()
