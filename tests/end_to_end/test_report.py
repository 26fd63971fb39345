"""`proxyd report` of a real proxy's log, and of a hostile one, looked at in a real browser (R7, ATTACKS 9).

Nothing may run there but the page's own script, nothing may be asked for but the file, nothing may be complained of.
"""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import pytest

from tests.end_to_end.browser import Browser
from tests.end_to_end.daemon import read_until
from tests.observe.synthetic import records

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

LOOKS = [(width, dark) for width in (1280, 360) for dark in (False, True)]
HOSTILE: tuple[object, ...] = (
    *("<script>document.title='hit'</script>", "</script><script>document.title='hit'</script>"),
    *('"><img src=x onerror="document.title=1">', "' onmouseover='document.title=1", '" autofocus onfocus="alert(1)'),
    *("</title><svg onload=alert(1)>", "<!--", "\x1b[2J\x1b]0;hit\x07", "\u202etxt.exe", "\ud800\x00", "x" * 5000),
    *(1e308, float("nan"), float("inf"), 10**400, -1, True, [], {}, ["<b>"], {"<b>": "<b>"}),
)
SHAPE = """
JSON.stringify({
  elements: [...new Set([...document.querySelectorAll("*")].map((each) => each.localName))].sort(),
  attributes: [...new Set([...document.querySelectorAll("*")].flatMap((each) => each.getAttributeNames()))].sort(),
  title: document.title,
})
"""
OVERFLOW = """
JSON.stringify([...document.querySelectorAll("body *")]
  .filter((each) => !each.closest(".box table") && each.getBoundingClientRect().right > innerWidth + 0.5)
  .map((each) => each.outerHTML.slice(0, 80)))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all looks."""
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def reported(log: Path) -> Path:
    """The page of a log."""
    out = log.with_suffix(".html")
    command = [sys.executable, "-m", "proxyd", "report", str(log), "--html", str(out)]
    subprocess.run(command, capture_output=True, check=True, timeout=60)  # noqa: S603 - our own program
    return out


def written(path: Path, entries: list[dict[str, Any]]) -> Path:
    """A log of these records."""
    path.write_text("".join(f"{json.dumps(each)}\n" for each in entries))
    return path


def seen(browser: Browser, url: str, *, width: int = 1280, dark: bool = False) -> dict[str, Any]:
    """What the page is made of, in a browser that had nothing to complain of."""
    browser.open(url, width=width, dark=dark)
    shape: dict[str, Any] = json.loads(browser.run(SHAPE))
    assert browser.complaints() == []
    assert browser.requests() == [url]
    assert shape["title"] == "proxyd report"
    return shape


@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_the_page_is_whole_light_and_dark_wide_and_narrow(
    browser: Browser, tmp_path: Path, width: int, *, dark: bool
) -> None:
    """Nothing sticks out of it, on a phone either; its colours are those that the reader's system asks for."""
    url = reported(written(tmp_path / "log", list(records(3000)))).as_uri()
    seen(browser, url, width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert json.loads(browser.run(OVERFLOW)) == []
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 24, 27)" if dark else "rgb(251, 251, 249)")
    assert browser.run("getComputedStyle(document.querySelector('path.denied')).fill") != "rgb(0, 0, 0)"
    assert browser.run("document.querySelector('svg.lanes').getBoundingClientRect().height") > 300


def test_tables_sort_by_a_click_and_by_the_keyboard(browser: Browser, tmp_path: Path) -> None:
    """Numbers as numbers: 900 kB is less than 1 MB."""
    seen(browser, reported(written(tmp_path / "log", list(records(3000)))).as_uri())

    def column(number: int) -> list[Any]:
        rows = f"[...document.querySelectorAll('#destinations tbody tr')].map((row) => row.cells[{number}])"
        found: list[Any] = browser.run(
            f"{rows}.map(({{ dataset, textContent }}) => (dataset.value ? Number(dataset.value) : textContent))"
        )
        return found

    def sorted_by() -> list[Any]:
        found: list[Any] = browser.run(
            "[...document.querySelectorAll('#destinations th')].map((each) => each.getAttribute('aria-sort'))"
        )
        return found

    assert sorted_by()[:3] == [None, "descending", None]
    browser.run("document.querySelectorAll('#destinations th button')[4].click()")
    down = column(4)
    assert down == sorted(down, reverse=True)
    assert len(set(down)) > 20
    assert sorted_by()[4] == "descending"
    browser.run("document.querySelectorAll('#destinations th button')[4].click()")
    assert column(4) == down[::-1]
    assert sorted_by()[4] == "ascending"
    browser.run("document.querySelectorAll('#destinations th button')[0].focus()")
    for kind in ("keyDown", "keyUp"):
        browser.ask("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    assert sorted_by()[0] == "ascending"
    names = [column(0).index(f"site{number}.example:443") for number in (1, 2, 10, 20)]
    assert names == sorted(names), "numbers in names are compared as numbers, too"


def test_whoever_points_at_a_step_reads_its_figures(browser: Browser, tmp_path: Path) -> None:
    seen(browser, reported(written(tmp_path / "log", list(records(3000)))).as_uri())
    x, y = browser.run(
        "(() => { const box = document.querySelectorAll('.step')[72].getBoundingClientRect();"
        " return [box.x + box.width / 2, box.y + 20] })()"
    )
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert browser.run("document.querySelector('.readout').textContent").startswith("2026-11-20 12:00:00, 10 min: ")


def test_it_says_the_same_without_scripts(browser: Browser, tmp_path: Path) -> None:
    url = reported(written(tmp_path / "log", list(records(300)))).as_uri()
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(url, width=1280, dark=False)
    browser.ask("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.complaints() == []
    assert browser.run(
        "[document.querySelectorAll('th button').length, document.querySelector('.readout').hidden]"
    ) == [
        0,
        True,
    ]
    assert browser.run("document.querySelectorAll('#destinations tbody tr').length") > 30


def test_attack_9_a_hostile_log_makes_the_page_that_a_harmless_one_makes(browser: Browser, tmp_path: Path) -> None:
    """Each odd value in every field in turn: no element, no attribute and no script comes of them."""
    base = [each for each in records(40) if each["event"] in ("decision", "close", "start", "reload")]
    names = sorted({name for each in base for name in each} - {"event"})
    odd = [each | {name: value} for each in base[:9] for name in names for value in HOSTILE]
    harmless = seen(browser, reported(written(tmp_path / "harmless", base)).as_uri())
    shape = seen(browser, reported(written(tmp_path / "hostile", [*base, *odd])).as_uri())
    assert shape == harmless
    said = browser.run("document.body.innerText")
    assert "<script>document.title='hit'</script>" in said, "it is there, as the text that it is"
    assert not set(said) & set("\x1b\x00\x07\u202e")


def test_the_browser_would_tell_if_something_ran(browser: Browser, tmp_path: Path) -> None:
    """The page's own policy refuses what did get in; and what is refused is heard here."""
    page = reported(written(tmp_path / "log", list(records(30))))
    planted = "<script>document.title = 'hit'</script><p style='color:red'>x</p><img src='https://93.184.216.34/x'>"
    page.write_text(page.read_text().replace("</main>", f"{planted}</main>"))
    browser.open(page.as_uri(), width=1280, dark=False)
    assert browser.run("document.title") == "proxyd report"
    told = [each["params"]["entry"]["text"] for each in browser.complaints() if each["method"] == "Log.entryAdded"]
    assert len([text for text in told if "Content Security Policy" in text]) == 3, told
    assert browser.requests() == [page.as_uri(), "https://93.184.216.34/x"], "told, though it was never sent"


def test_it_can_be_served_as_well(browser: Browser, tmp_path: Path) -> None:
    """From a web server nothing else is asked for, no icon either."""
    page = reported(written(tmp_path / "log", list(records(30))))
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), partial(quiet, directory=str(tmp_path)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        seen(browser, f"http://127.0.0.1:{server.server_address[1]}/{page.name}")
    finally:
        server.shutdown()
        server.server_close()


def test_r7_the_report_of_a_real_proxy(browser: Browser, scene: Scene, proxy: Daemon) -> None:
    """A tunnel, a refusal and a lookup that fails, each where it belongs."""
    with proxy.connect() as client:
        client.sendall(f"CONNECT {scene.target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b" 200 " in read_until(client, b"\r\n\r\n")
    for host in ("169.254.169.254", "no-such.test"):
        with proxy.connect() as client:
            client.sendall(f"GET http://{host}/secret-path?token=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            read_until(client, b"\r\n\r\n")
    proxy.stop()
    page = reported(proxy.audit)
    seen(browser, page.as_uri(), width=360)
    cards = "[...document.querySelectorAll('.headline dd')].slice(0, 4).map((each) => each.firstChild.textContent)"
    assert browser.run(cards) == ["3", "1", "1", "1"]
    said = browser.run("document.body.innerText")
    for text in (scene.target, "address_locked", "cloud-metadata", "no-such.test:80", "dns_error", "tester"):
        assert text in said, text
    assert "secret-path" not in page.read_text()
