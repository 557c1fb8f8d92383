"""The report in a real browser: each kind of run, light and dark, wide and narrow, printed, and with hostile data."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease.core.journal import Run
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright
from reports import SITUATIONS, WATCHED, report_of

PHONE, WIDE = 390, 1280
WCAG_AA = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
SECTIONS = ["way-back", "checklist", "timeline", "before-and-after", "change", "claims", "files"]
OPTIONAL = {"cause", "open", "advice", "cost", "progress", "monitoring"}
OPEN_ALL = "document.querySelectorAll('details').forEach(details => details.open = true)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium or Chrome as the machine has it (`make browser`), or as CHROMIUM names it."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    assert found, "There is no Chromium on this machine: run `make browser`, or set CHROMIUM to one."
    with sync_playwright() as playwright:
        # As root, as in CI, Chromium has no sandbox.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


Open = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser, run_parameters: dict[str, Any], tmp_path: Path) -> Iterator[Open]:
    """Opens the report of a situation; nothing may be said on the console, nor be asked of anybody."""
    said: list[str] = []
    pages: list[Page] = []

    def visit(situation: str, *, width: int = WIDE, scheme: str = "light", monitoring: Any = None) -> Page:
        file = tmp_path / f"{situation}.html"
        file.write_text(report_of(situation, Run(**run_parameters), monitoring=monitoring), encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
        pages.append(page)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: said.extend([] if request.url == file.as_uri() else [request.url]))
        page.goto(file.as_uri())
        page.evaluate(OPEN_ALL)
        return page

    yield visit
    for page in pages:
        page.close()
    assert [line for line in said if not line.startswith("data:")] == []


def problems(page: Page) -> list[str]:
    """What breaks WCAG AA, with the first place of each."""
    seen = Axe().run(page, options=WCAG_AA).response
    nodes = [
        (rule["id"], node) for kind in ("violations", "incomplete") for rule in seen[kind] for node in rule["nodes"]
    ]
    # What it cannot decide counts too, but for signs (their word is beside them) and charts (text beside shapes).
    reported = [(rule, node["html"][:200], node["failureSummary"]) for rule, node in nodes if not undecidable(node)]
    return [" ".join(one) for one in reported]


def undecidable(node: dict[str, Any]) -> bool:
    """A single sign, text in a chart, or code that wraps within a line, of which nothing is known to be wrong."""
    html, why = node["html"], node["failureSummary"]
    wraps = html.startswith("<code>") and "overlapped by another element" in why  # the box around its lines overlaps
    return wraps or "only non-text characters" in why or ("<text" in html and "insufficient" not in why)


def overflow(page: Page) -> list[str]:
    """What makes the page scroll sideways."""
    return list(
        page.evaluate(
            """() => document.documentElement.scrollWidth <= innerWidth ? [] :
            [...document.querySelectorAll('body *')].filter(one => one.getBoundingClientRect().right > innerWidth + 1
              && !one.parentElement.closest('.scroll, svg')).map(one => one.outerHTML.slice(0, 150))
              .concat(['' + document.documentElement.scrollWidth])"""
        )
    )


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_section_is_there(visit: Open, situation: str) -> None:
    page = visit(situation)
    ids = page.eval_on_selector_all("main > section", "all => all.map(one => one.id)")
    assert [name for name in ids if name not in OPTIONAL] == SECTIONS
    assert "3 errors in backend" in visit(situation, monitoring=WATCHED).locator("#monitoring").inner_text()
    assert ("cause" in ids) == (situation not in ("deployed", "planned"))
    assert page.locator("h1").count() == 1
    for section in ids:
        text = page.locator(f"#{section}").inner_text()
        assert len(text.split("\n", 1)[-1].strip()) > 3, f"{section} says nothing"
    assert page.locator("header .badge").bounding_box()["y"] < 100  # type: ignore[index]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("situation", ["deployed", "failed_verification", "refused", "contended", "hostile"])
def test_it_meets_wcag_aa(visit: Open, situation: str, scheme: str) -> None:
    page = visit(situation, scheme=scheme, monitoring=WATCHED)
    assert problems(page) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(background) < 200) == (scheme == "dark")


def test_on_a_phone_it_meets_wcag_aa_as_well(visit: Open) -> None:
    assert problems(visit("failed_verification", width=PHONE)) == []


def test_bad_contrast_and_a_wide_element_would_be_found(visit: Open) -> None:
    page = visit("deployed", width=PHONE)
    page.evaluate("document.querySelector('.headline').style.color = '#ccc'")
    page.evaluate("document.querySelector('.headline').style.width = '500px'")
    assert [one for one in problems(page) if one.startswith("color-contrast")]
    assert overflow(page)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_it_never_scrolls_sideways(visit: Open, situation: str) -> None:
    page = visit(situation, monitoring=WATCHED)
    for width in (WIDE, PHONE, 320):
        page.set_viewport_size({"width": width, "height": 844})
        assert overflow(page) == [], width


def test_text_in_charts_can_be_read_on_a_phone(visit: Open) -> None:
    page = visit("deployed", width=PHONE, monitoring=WATCHED)
    sizes = page.eval_on_selector_all(
        "svg.chart",
        "all => all.map(svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width * 11)",
    )
    assert len(sizes) >= 6 and min(sizes) >= 8.5


def test_hostile_data_is_shown_and_does_nothing(visit: Open) -> None:
    page = visit("hostile")
    assert page.locator("script").count() == 0
    assert page.locator("a[href*='http']").count() == 0
    assert "<script>alert(1)</script> &lt;" in page.locator("header .headline, h1").first.inner_text()
    assert "<script>alert(1)</script>" in page.locator("#claims pre").first.inner_text()


def test_a_proof_leads_to_its_claim_which_opens(visit: Open) -> None:
    page = visit("deployed")
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = false)")
    link = page.get_by_role("link", name="checks.counts")
    link.click()
    body = page.locator(link.get_attribute("href") or "")
    body.wait_for(state="visible")
    assert "SELECT 1" in body.inner_text()


def test_a_command_is_selected_by_one_click(visit: Open) -> None:
    page = visit("failed_verification")
    page.locator("pre.copy").first.click()
    assert (
        page.evaluate("getSelection().toString()").strip() == "ansible-playbook rollback.yml -i test -e '{\"a\": {}}'"
    )


def test_it_prints_with_what_is_folded(visit: Open) -> None:
    page = visit("deployed")
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = false)")
    sql = page.locator("#claims pre").first
    assert not sql.is_visible()
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF") and len(printed) > 20_000
    page.emulate_media(media="print")
    assert sql.is_visible()
    assert not page.locator("nav").is_visible()
