"""The dashboard in headless Chromium: what it shows, to whom, and what it says when the server is gone."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.ops.answers import BUSY
from fraudgate.ops.http import OpsServer
from tests.integration import browser as chromium
from tests.integration.browser import Browser
from tests.integration.server import request, serve
from tests.unit.test_dashboard import batch, editions

pytestmark = pytest.mark.skipif(
    chromium.CHROMIUM is None, reason="the dashboard is not looked at: chromium is not installed (apt install chromium)"
)

LIVE = "document.body.dataset.link === 'live' && page.seconds.length > 0"
TAB, ENTER = ("Tab", 9), ("Enter", 13)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.browser() as started:
        yield started


class Board:
    """An ops server that shows four decisions, and how to reach it."""

    def __init__(self) -> None:
        recorder, counters = Recorder(budget_ns=50_000_000), Counters()
        recorder.record_batch(batch(4, rules=1))
        counters.count_refusal("budget", 3)
        self.server = OpsServer(recorder, counters, lambda: True, port=0, editions=editions(), rules_version="rules-1")
        self.server.start()
        self.url = f"http://127.0.0.1:{self.server.port}/"


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board()
    yield board
    if board.server._listener._thread.is_alive():
        board.server.close()


def text(browser: Browser, id: str) -> str:
    told: str = browser.value(f"document.getElementById({id!r}).innerText")
    return told


async def test_it_shows_what_the_service_does_now(browser: Browser, models: Path) -> None:
    browser.problems.clear()
    browser.requests.clear()
    async with serve(models) as server:
        url = f"http://127.0.0.1:{server.service._ops.port}/"
        await asyncio.to_thread(browser.show, url)
        await asyncio.to_thread(browser.until, LIVE)
        decided = [await server.score(request(f"shown-{n}")) for n in range(5)]
        await server.score(request("refused", currency="XXQ"))
        await asyncio.to_thread(browser.until, "document.getElementById('refusals').innerText.includes('invalid')")
        await asyncio.to_thread(browser.until, "document.querySelectorAll('#recent tbody tr').length >= 5")
        recent, serving, identity = [
            await asyncio.to_thread(text, browser, name) for name in ("recent", "serving", "identity")
        ]
        assert {end.response.decision_id for end in decided} <= {*recent.split()}
        assert decided[0].response.reasons[0].code in recent
        assert serving == "● SERVING"
        assert "small/1" in identity
        assert server.service.parts.rules.version in identity
        page = await asyncio.to_thread(browser.value, "document.documentElement.innerText")
        assert not any(personal in page for personal in ("shown-", "C-shown", "T-1"))
    assert {urlsplit(asked).netloc for asked in browser.requests} == {urlsplit(url).netloc}
    assert [problem for problem in browser.problems if "ERR_CONNECTION" not in problem] == []


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_is_drawn(browser: Browser, board: Board, width: int, scheme: str) -> None:
    browser.show(board.url, width=width, prefers_color_scheme=scheme)
    browser.until(LIVE)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("[...document.querySelectorAll('figure > svg')].every((each) => each.clientWidth > 200)")
    ground = browser.value("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(251, 250, 247)", "dark": "rgb(20, 24, 27)"}[scheme]


def test_it_can_be_heard_and_used_without_a_mouse(browser: Browser, board: Board) -> None:
    browser.show(board.url, prefers_reduced_motion="reduce")
    browser.until(LIVE)
    tables = "[...document.querySelectorAll('table')].filter((each) => each.rows.length)"
    assert browser.value(f"{tables}.every((each) => each.caption && each.querySelector('th[scope=col]'))")
    assert browser.value("[...document.querySelectorAll('section')].every((each) => each.ariaLabelledByElements[0])")
    assert browser.value("[...document.querySelectorAll('figure > svg')].every((each) => each.ariaLabel)")
    assert browser.value(
        "[...document.querySelectorAll('.tile dd')].every((each) => getComputedStyle(each).transitionDuration === '0s')"
    )
    assert text(browser, "announcer") == "Serving, p99 no decisions, rung full"
    focused = "document.activeElement.className + document.activeElement.id"
    browser.press(*TAB)
    assert browser.value(focused) == "skip"
    browser.press(*TAB)
    assert browser.value(focused) == "pause"
    assert browser.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.press(*ENTER)
    browser.until("document.body.dataset.link === 'paused'")
    assert text(browser, "link").startswith("Paused: these are the figures of ")
    browser.press(*ENTER)
    browser.until(LIVE)
    browser.press(*TAB)
    browser.press("ArrowRight", 39)
    assert browser.until("document.querySelector('#lines svg').ariaLabel.startsWith('p50')")


def test_without_an_answer_nothing_looks_live(browser: Browser, board: Board) -> None:
    browser.show(board.url)
    browser.until(LIVE)
    board.server.close()
    browser.until("document.body.dataset.link === 'gone'")
    assert text(browser, "link").startswith("No answer since ")
    assert text(browser, "serving") == "✕ UNKNOWN"
    assert text(browser, "now") == "Now"
    assert browser.value("getComputedStyle(document.getElementById('now'), '::after').content") == '" (old)"'
    assert {text(browser, name) for name in ("verdict", "decisions", "rung")} == {"\u2013"}


def test_too_many_viewers_are_told_to_wait(browser: Browser, board: Board) -> None:
    browser.show(board.url)
    browser.until(LIVE)
    routes = board.server._listener._routes
    assert isinstance(routes, dict)
    route = routes["/dashboard.json"]
    routes["/dashboard.json"] = lambda _query: BUSY
    browser.until("document.body.dataset.link === 'busy'")
    assert text(browser, "link").startswith("Too many viewers: busy, retrying. No answer since ")
    routes["/dashboard.json"] = route
    browser.until(LIVE)
