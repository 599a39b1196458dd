"""The report in a browser: it is quiet, sorts, filters, follows clicks and keys, plays; dark, on phone and paper."""

import base64
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from musdbkit import report
from tests import browser
from tests.browser import wait
from tests.test_report import DASH, HOSTILE, MINUS, NAN, TRACKS, first, make_excerpt, make_method, make_methods

pytest.importorskip("selenium") if not os.environ.get("CI") else None

Driver = Any
FRAMES = 12  # of each track, in seconds


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A browser."""
    with browser.open_browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with all that there can be; a track of the first method has no accompaniment."""
    out = tmp_path_factory.mktemp("report") / "report.html"
    one = make_method("one", lambda i, k, f: NAN if (TRACKS[i], k) == (HOSTILE, 1) else first(i, k, f))
    excerpts = {"one": [make_excerpt(HOSTILE, "vocals", 5.0), make_excerpt("A.B. - Dots", "vocals", 0.0)]}
    report.report([one, *make_methods()[1:]], out, excerpts=excerpts)
    return out


@pytest.fixture
def page(driver: Driver, path: Path) -> Iterator[Driver]:
    """The browser with the report just opened; at the end it must not have complained or asked for anything."""
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    driver.get(path.as_uri())
    driver.execute_script("sessionStorage.clear()")
    driver.get(path.as_uri())
    yield driver
    assert browser.complaints(driver) == []
    assert set(browser.requests(driver)) <= {path.as_uri()}


def find(page: Driver, css: str) -> Any:
    """Return the first element of a selector."""
    return page.find_element("css selector", css)


def click(page: Driver, css: str) -> None:
    """Click an element in the middle of the window."""
    node = find(page, css)
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", node)
    node.click()


def press(page: Driver, css: str, *keys: str) -> None:
    """Press keys on an element."""
    find(page, css).send_keys(*keys)


def choose(page: Driver, css: str, text: str) -> None:
    """Choose an option by its text."""
    from selenium.webdriver.support.select import Select

    Select(find(page, css)).select_by_visible_text(text)


def player(page: Driver, key: str) -> str:
    """Return what the player shows of its state."""
    return str(find(page, "#player").get_attribute(f"data-{key}"))


def column(page: Driver, i: int) -> list[str]:
    """Return the visible cells of a column of the table of tracks; of the first, the names."""
    script = """return [...document.querySelectorAll("#tracks-table tbody tr:not([hidden])")].map(
        (row) => (arguments[0] ? row.cells[arguments[0]] : row.querySelector("button")).textContent)"""
    return list(page.execute_script(script, i))


def point_at(page: Driver, seconds: float) -> None:
    """Click the timeline at a time."""
    from selenium.webdriver import ActionChains

    node = find(page, "#timeline")
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", node)
    wait(lambda: page.execute_script("return !!document.getElementById('timeline-plot')._fullLayout"))
    script = """const { xaxis } = document.getElementById("timeline-plot")._fullLayout;
        return xaxis._offset + xaxis.d2p(arguments[0]) - arguments[1].clientWidth / 2"""
    offset = page.execute_script(script, seconds, node)
    ActionChains(page).move_to_element_with_offset(node, round(offset), 0).click().perform()


def play(page: Driver) -> None:
    """Start the player."""
    click(page, "#play")
    wait(lambda: player(page, "state") == "playing" and float(player(page, "position")) > 0)


# Quiet


def test_draws_all_without_a_word(page: Driver) -> None:
    for plot in page.find_elements("css selector", ".plot"):
        page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plot)
        wait(lambda plot=plot: plot.find_elements("css selector", "svg.main-svg"))
    for metric in ("SIR", "uSDR", "SDR"):
        click(page, f"input[name=box-metric][value={metric}]")
        assert metric in find(page, "#boxes .plot").get_attribute("aria-label")
    for name in ("track", "method", "metric"):
        for option in page.find_elements("css selector", f"#{name} option"):
            option.click()


def test_names_are_text(page: Driver) -> None:
    choose(page, "#track", HOSTILE)
    choose(page, "#method", "<b>two</b>")
    for plot in page.find_elements("css selector", ".plot"):
        page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plot)
        wait(lambda plot=plot: plot.find_elements("css selector", "svg.main-svg"))
    assert not page.find_elements("css selector", "img, svg image, body b:not(#readout b, .facts b)")
    ticks = [each.text for each in page.find_elements("css selector", "#boxes .ytick text")]
    assert "<b>two</b>" in ticks
    page.execute_script(  # what plotly shows beside the mouse
        """const plot = document.querySelector("#boxes .plot");
        const points = plot.data.findIndex((each) => each.mode === "markers");
        plot.scrollIntoView({block: "center", behavior: "instant"});
        Plotly.Fx.hover(plot, [{curveNumber: points, pointNumber: arguments[0]}])""",
        sorted(TRACKS).index(HOSTILE),
    )
    assert wait(lambda: page.find_elements("css selector", "#boxes .hoverlayer text"))[0].text.startswith(HOSTILE)
    assert not page.find_elements("css selector", "img, svg image")
    assert HOSTILE in column(page, 0)


def test_boxes_are_drawn_as_stated(page: Driver) -> None:
    script = """const plot = document.querySelectorAll("#boxes .plot")[arguments[0]];
        return plot.calcdata.filter(([first]) => first.trace.type === "box")
            .map(([box]) => [box.lf, box.q1, box.med, box.q3, box.uf])"""
    for plot in page.find_elements("css selector", "#boxes .plot"):
        page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plot)
        wait(lambda plot=plot: plot.find_elements("css selector", "svg.main-svg"))
    for metric in ("SIR", "uSDR", "SDR"):
        click(page, f"input[name=box-metric][value={metric}]")
        stated = page.execute_script("return JSON.parse(document.getElementById('data').textContent).boxes")[metric]
        rows = page.execute_script(
            "return [...document.querySelectorAll('#box-numbers tbody tr')].map((row) => row.cells[5].textContent)"
        )
        medians = []
        for target, boxes in enumerate(stated):
            keys = ("lower", "q1", "median", "q3", "upper")
            assert page.execute_script(script, target) == [[box[key] for key in keys] for box in boxes]
            medians += [box["median"] for box in boxes]
        assert len(medians) == 8
        assert [float(row.replace(MINUS, "-")) for row in rows] == pytest.approx(medians, abs=0.00501)
    assert f"one: median {rows[0]} dB" in find(page, "#boxes .plot").get_attribute("aria-label")


def test_bounds_are_drawn_as_bounds(page: Driver) -> None:
    page.execute_script("document.querySelector('#boxes .plot').scrollIntoView({behavior: 'instant'})")
    wait(lambda: page.find_elements("css selector", "#boxes .ytick text"))
    labels = [each.text for each in page.find_elements("css selector", "#boxes figure:first-child .ytick text")]
    assert sorted(labels) == ["<b>two</b>", "irm1 (ceiling)", "mix (floor)", "one"]
    assert "bound: the mixture (floor) or an oracle (ceiling)" in find(page, "#box-key").text
    inks = page.execute_script(
        "return document.querySelector('#boxes .plot').data.filter((each) => each.type === 'box')"
        ".map((each) => [each.line.color, each.fillcolor])"
    )
    assert inks[0] == inks[1] != inks[2] == inks[3]
    assert inks[2][1] == "rgba(0, 0, 0, 0)"


def test_policy_stops_foreign_scripts(driver: Driver, path: Path) -> None:
    driver.get(path.as_uri())
    driver.execute_script("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = true\">')")
    wait(lambda: [each for each in browser.complaints(driver) if "Content Security Policy" in each])
    assert driver.execute_script("return window.ran") is None
    browser.requests(driver)


# The table of tracks


def test_sorts_up_and_down_with_nan_last(page: Driver) -> None:
    head = "#tracks-table thead tr:nth-child(2) th:nth-child(6)"  # accompaniment of the first method
    assert find(page, head).get_attribute("aria-sort") == "none"
    assert column(page, 5)[0] == DASH
    values = {text for text in column(page, 5) if text != DASH}
    for direction, reverse in (("ascending", False), ("descending", True)):
        click(page, f"{head} button")
        assert find(page, head).get_attribute("aria-sort") == direction
        expected = sorted(values, key=lambda text: float(text.replace(MINUS, "-")), reverse=reverse)
        assert column(page, 5) == [*expected, DASH]


def test_sorts_by_name_with_the_keyboard(page: Driver) -> None:
    press(page, "#tracks-table thead th:first-child button", "\ue007")
    names = column(page, 0)
    assert sorted(names) == sorted(TRACKS)
    press(page, "#tracks-table thead th:first-child button", " ")
    assert column(page, 0) == names[::-1]
    assert find(page, "#tracks-table thead th:first-child").get_attribute("aria-sort") == "descending"


def test_filters(page: Driver) -> None:
    press(page, "#filter", "mOTÖR")
    assert column(page, 0) == ["Motörhead - 東京"]
    find(page, "#filter").clear()
    press(page, "#filter", '"friends"')
    assert column(page, 0) == [HOSTILE]
    assert find(page, "#filter-count").text == "1 of 7 tracks"
    press(page, "#filter", "zzz")
    assert find(page, "#filter-count").text == "none of 7 tracks has such a name"
    find(page, "#filter").clear()
    press(page, "#filter", '"friends"')
    choose(page, "#columns", "accompaniment")
    shown = [each.text for each in page.find_elements("css selector", "#tracks-table thead th") if each.is_displayed()]
    assert [text for text in shown if text in ("vocals", "accompaniment")] == ["accompaniment"]


def test_a_row_opens_its_track(page: Driver) -> None:
    click(page, "#tracks-table tbody tr:nth-child(6) button")
    assert find(page, "#track").get_attribute("value") == "5"
    assert page.switch_to.active_element.get_attribute("id") == "timeline"
    click(page, "#next")
    assert find(page, "#track").get_attribute("value") == "6"
    assert not find(page, "#next").is_enabled()
    assert find(page, "#tracks-table [aria-current]").get_attribute("data-track") == "6"


# The timeline and the player


def test_keys_move_the_cursor_and_read_out(page: Driver) -> None:
    choose(page, "#track", "A.B. - Dots")
    press(page, "#timeline", "\ue011", "\ue014")  # Home, right
    assert find(page, "#timeline").get_attribute("aria-valuenow") == "1"
    assert find(page, "#timeline").get_attribute("aria-valuetext") == "0:01, vocals 3.12 dB, accompaniment 5.12 dB"
    assert find(page, "#readout").text.split("\n")[0].startswith(f"0:01{DASH}0:02")
    readout = []
    for _ in range(8):
        press(page, "#timeline", "\ue014")
        readout.append(find(page, "#readout").text)
    assert "vocals dropped" in readout[2]
    assert f"vocals {MINUS}20.00 dB" in readout[5]
    assert "vocals ∞ dB" in readout[7]
    press(page, "#timeline", "\ue010")  # End
    assert find(page, "#timeline").get_attribute("aria-valuenow") == str(FRAMES - 1)


def test_far_frames_do_not_flatten_the_others(page: Driver) -> None:
    choose(page, "#track", "A.B. - Dots")
    find_range = "return document.getElementById('timeline-plot')._fullLayout.yaxis.range"
    page.execute_script("document.getElementById('timeline').scrollIntoView({block: 'center', behavior: 'instant'})")
    wait(lambda: page.execute_script("return !!document.getElementById('timeline-plot')._fullLayout"))
    low, high = page.execute_script(find_range)
    assert -2 < low <= 0 < 6 < high < 9
    symbols = page.execute_script(
        "return document.getElementById('timeline-plot').data.flatMap((each) => Array.isArray(each.marker.symbol) ?"
        " each.y.map((y, i) => [each.x[i], y, each.marker.symbol[i]]) : [])"
    )
    assert [(x, symbol) for x, _, symbol in symbols] == [
        (7.5, "triangle-down"),
        (9.5, "triangle-up-open"),
        (7.5, "triangle-down"),
    ]
    assert all(low < y < high for _, y, _ in symbols)
    assert find(page, "#fit-field").text == "fit all values (2 beyond the edge)"
    click(page, "#fit")
    wait(lambda: page.execute_script(find_range)[0] < -20)


def test_the_focus_ring_leaves_the_readout_alone(page: Driver) -> None:
    press(page, "#timeline", "\ue011")  # Home
    ring, gap = page.execute_script(
        """const node = document.getElementById("timeline"), style = getComputedStyle(node);
        const ring = parseFloat(style.outlineWidth) + parseFloat(style.outlineOffset);
        return [ring, document.getElementById("readout").getBoundingClientRect().top
            - node.getBoundingClientRect().bottom]"""
    )
    assert 0 < ring < gap


def test_the_mouse_reads_out_too(page: Driver) -> None:
    from selenium.webdriver import ActionChains

    choose(page, "#track", "A.B. - Dots")
    point_at(page, 7.5)
    assert f"vocals {MINUS}20.00 dB" in find(page, "#readout").text
    ActionChains(page).move_by_offset(-40, 0).perform()  # less than a second of twelve
    moved = find(page, "#readout").text
    assert moved.startswith("0:07") or moved.startswith("0:06")
    ActionChains(page).move_to_element(find(page, "#seconds-title")).perform()
    assert find(page, "#readout").text.startswith("0:07")


def test_a_click_moves_the_player(page: Driver) -> None:
    choose(page, "#track", HOSTILE)
    for seconds in (6.5, 9.3, 5.2):
        point_at(page, seconds)
        assert float(player(page, "position")) == pytest.approx(seconds - 5.0, abs=0.05)  # of a pixel
        assert find(page, "#timeline").get_attribute("aria-valuenow") == str(int(seconds))
    assert player(page, "state") == "paused"
    press(page, "#timeline", "\ue011", *["\ue014"] * 8, "\ue007")  # Enter at second 8
    assert float(player(page, "position")) == pytest.approx(3.0)


def test_a_click_where_there_is_no_sound_offers_the_nearest(page: Driver) -> None:
    choose(page, "#track", HOSTILE)
    point_at(page, 2.0)
    assert re.fullmatch(
        rf"No excerpt at 0:0(2|1\.9|2\.1); the nearest is vocals 0:05{DASH}0:10\.", find(page, "#notice").text
    )
    click(page, "#offer")
    assert (player(page, "state"), player(page, "clip")) == ("paused", "0")
    choose(page, "#track", "PR - Oh No")
    assert "There is no excerpt of this track and method." in find(page, "#notice").text
    click(page, "#offer")
    assert find(page, "#track").get_attribute("value") == str(sorted(TRACKS).index(HOSTILE))


def test_signals_switch_at_the_same_position(page: Driver) -> None:
    play(page)
    switch = """const node = document.getElementById("player"), before = Number(node.dataset.position);
        document.querySelectorAll("input[name=signal]")[arguments[0]].click();
        return [before, Number(node.dataset.position)]"""
    for i, signal in ((1, "reference"), (2, "estimate"), (3, "error"), (0, "mixture")):
        before, after = page.execute_script(switch, i)
        assert (after - before) % 5.0 < 0.1
        assert player(page, "signal") == signal
        gains = [1.0 if k == i else 0.0 for k in range(4)]
        wait(
            lambda gains=gains: (
                [float(gain) for gain in player(page, "gains").split()] == pytest.approx(gains, abs=0.02)
            )
        )
    assert player(page, "state") == "playing"


def test_plays_on_through_switches(page: Driver) -> None:
    play(page)
    start, began = float(player(page, "position")), time.monotonic()
    for key in "23412341":
        press(page, "#timeline", key)
        assert player(page, "signal") == ("mixture", "reference", "estimate", "error")[int(key) - 1]
    time.sleep(0.3)
    elapsed = time.monotonic() - began
    assert (float(player(page, "position")) - start - elapsed) % 5.0 == pytest.approx(0, abs=0.3) or (
        start + elapsed - float(player(page, "position"))
    ) % 5.0 == pytest.approx(0, abs=0.3)


def test_space_pauses_and_the_slider_seeks(page: Driver) -> None:
    play(page)
    press(page, "#timeline", " ")
    assert player(page, "state") == "paused"
    at = player(page, "position")
    time.sleep(0.1)
    assert player(page, "position") == at
    assert find(page, "#play").text == "Play"
    page.execute_script(
        "const seek = document.getElementById('seek'); seek.value = 4; seek.dispatchEvent(new Event('input'))"
    )
    assert float(player(page, "position")) == 4.0
    press(page, "input[name=signal]", " ")
    wait(lambda: player(page, "state") == "playing")
    wait(lambda: float(player(page, "position")) < 2.0)  # it repeats
    assert find(page, "#head").is_displayed()
    press(page, "#filter", "1 2")  # elsewhere the keys are the reader's
    assert find(page, "#filter").get_attribute("value") == "1 2"
    assert player(page, "signal") == "mixture"


def test_no_sound_before_a_gesture(page: Driver) -> None:
    page.execute_script("window.AudioContext = class { constructor() { window.made = true; } }")
    choose(page, "#track", HOSTILE)
    point_at(page, 6.0)
    assert page.execute_script("return window.made") is None


def test_a_worst_second_opens_with_its_sound(page: Driver) -> None:
    button = find(page, "button.second[data-clip='0']")
    start = float(button.get_attribute("data-start"))
    click(page, "button.second[data-clip='0']")
    assert (player(page, "clip"), float(player(page, "position"))) == ("0", pytest.approx(start - 5.0))
    assert find(page, "#track").get_attribute("value") == button.get_attribute("data-track")
    assert find(page, "#timeline").get_attribute("aria-valuenow") == str(int(start))
    assert page.find_elements("css selector", ".seek .worst")


def test_a_worst_second_without_an_excerpt_loads_no_other(page: Driver) -> None:
    script = """return [...document.querySelectorAll("button.second:not([data-clip])")].findIndex((each) =>
        each.dataset.track === arguments[0] && each.dataset.target === "1" && each.dataset.method === "0")"""
    track = sorted(TRACKS).index("A.B. - Dots")
    place = page.execute_script(script, str(track))
    button = page.find_elements("css selector", "button.second:not([data-clip])")[place]
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
    assert button.accessible_name == "0:07, accompaniment of A.B. - Dots"
    before = player(page, "clip")
    button.click()
    assert find(page, "#track").get_attribute("value") == str(track)
    assert player(page, "clip") == before == "0"  # of the other track
    assert find(page, "#notice").text.startswith("No excerpt of accompaniment at 0:07; the nearest is vocals 0:00")


def test_listen_plays(page: Driver) -> None:
    click(page, "button.listen[data-clip='1']")
    wait(lambda: player(page, "state") == "playing")
    assert player(page, "clip") == "1"
    assert find(page, "#notice").text == f"Loaded: vocals 0:00{DASH}0:05 of A.B. - Dots."


# Dark, phone, paper


def render(page: Driver) -> bool:
    """Let a page draw a frame, before which it does not hear of another medium, and without a window none may come."""
    return bool(page.get_screenshot_as_png())


def colours(page: Driver) -> tuple[str, str]:
    """Return the colours of the page's ground and of a plot's text."""
    find(page, "#boxes .plot")
    page.execute_script("document.querySelector('#boxes .plot').scrollIntoView({behavior: 'instant'})")
    wait(lambda: page.find_elements("css selector", "#boxes .xtick text"))
    return tuple(
        page.execute_script(
            """return [getComputedStyle(document.body).backgroundColor,
            getComputedStyle(document.querySelector("#boxes .xtick text")).fill]"""
        )
    )


def test_dark_by_preference_and_by_choice(page: Driver) -> None:
    light = colours(page)
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    dark = wait(lambda: render(page) and (found := colours(page))[1] != light[1] and found)
    assert dark[0] != light[0] == "rgb(255, 255, 255)"
    click(page, ".theme input[value=light]")
    assert colours(page) == light
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    click(page, ".theme input[value=dark]")
    assert colours(page) == dark


def test_colours_are_remembered(page: Driver, path: Path) -> None:
    click(page, ".theme input[value=dark]")
    page.get(path.as_uri())
    assert find(page, "html").get_attribute("data-theme") == "dark"
    assert find(page, ".theme input[value=dark]").is_selected()


def test_a_phone_needs_no_sideways_scrolling(page: Driver) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    page.refresh()
    for details in page.find_elements("css selector", "details:not([open]) > summary"):
        page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", details)
        details.click()
    page.execute_script(
        "document.querySelectorAll('.plot').forEach((each) => each.scrollIntoView({behavior: 'instant'}))"
    )
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    assert page.execute_script("return visualViewport.width") == 390
    wide = """return [...document.querySelectorAll("main *")].filter((node) => !node.closest(".scroll, .hidden"))
        .filter((node) => node.getBoundingClientRect().right > 391).map((node) => node.outerHTML.slice(0, 80))"""
    assert page.execute_script(wide) == []
    right = """return Math.max(...[...document.querySelectorAll("#worst :is(td, button)")]
        .map((each) => each.getBoundingClientRect().right))"""
    assert page.execute_script(right) <= 390
    small = """return [...document.querySelectorAll("button, select, summary, .contents a, label:has(input)")]
        .map((node) => [node.textContent.trim(), node.getBoundingClientRect()])
        .filter(([, box]) => box.width && (box.height < 24 || box.width < 24)).map(([text]) => text)"""
    assert page.execute_script(small) == []


def test_tracks_of_two_methods_fit_a_screen(page: Driver, tmp_path: Path) -> None:
    targets = ("vocals", "drums", "bass", "other", "accompaniment")
    methods = [make_method(name, first, targets=targets, nb_frames=3) for name in ("open-unmix-umxl", "my-network")]
    report.report(methods, tmp_path / "report.html")
    page.get((tmp_path / "report.html").as_uri())
    inner, outer = page.execute_script(
        "const node = document.querySelector('#tracks .scroll'); return [node.scrollWidth, node.clientWidth]"
    )
    assert inner <= outer
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    browser.requests(page)


def test_paper_has_many_methods_by_target(page: Driver, tmp_path: Path) -> None:
    methods = [make_method(f"method {i}", first, nb_frames=3) for i in range(14)]
    report.report(methods, tmp_path / "report.html")
    page.get((tmp_path / "report.html").as_uri())
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    script = """return [...document.querySelectorAll("#tracks-paper table")].filter((each) => each.checkVisibility())
        .map((each) => [each.caption.textContent, each.rows.length, each.rows[0].cells.length])"""
    wait(lambda: render(page) and page.execute_script(script))
    assert page.execute_script(script) == [
        ["SDR in dB of vocals", 8, 9],  # with the dropped frames
        ["SDR in dB of vocals", 8, 8],
        ["SDR in dB of accompaniment", 8, 8],
        ["SDR in dB of accompaniment", 8, 8],
    ]
    assert not find(page, "#tracks-table").is_displayed()
    assert find(page, "#timeline-caption").text == f"SDR of method 0, {HOSTILE}, by second"
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    wait(lambda: render(page) and not page.find_elements("css selector", "#tracks-paper table"))
    assert find(page, "#tracks-table").is_displayed()
    assert not find(page, "#timeline-caption").is_displayed()
    browser.requests(page)


def test_paper_shows_all(page: Driver) -> None:
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    wait(lambda: render(page) and not page.find_elements("css selector", "details:not([open])"))
    assert not find(page, "#player").is_displayed()
    assert not find(page, ".theme").is_displayed()
    assert all(table.is_displayed() for table in page.find_elements("css selector", "details:not(.noprint) table"))
    plots = page.find_elements("css selector", ".plot")
    assert plots
    wait(lambda: all(plot.find_elements("css selector", "svg.main-svg") for plot in plots))
    assert colours(page)[0] == "rgb(255, 255, 255)"
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    wait(lambda: render(page) and page.find_elements("css selector", "details:not([open])"))


def test_prints(page: Driver) -> None:
    document = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert document.startswith(b"%PDF")
    assert len(document) > 100_000  # all plots are in it, though none has been in view
