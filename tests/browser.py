"""Chromium without a window, as Debian packages it, driven by selenium."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

PROGRAMS: Final = ("/usr/bin/chromium", "/usr/bin/chromedriver")
_FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)


@contextmanager
def open_browser(profile: Path) -> Iterator[Any]:
    """Yield a browser with an empty profile; without one the tests are skipped, but not in CI."""
    if missing := [program for program in PROGRAMS if not Path(program).is_file()]:
        if os.environ.get("CI"):
            pytest.fail(f"CI has no {missing[0]}")
        pytest.skip(f"needs {missing[0]}: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = PROGRAMS[0]
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = Service(PROGRAMS[1])
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def complaints(driver: Any) -> list[str]:
    """Return what was written to the console since it was last asked for, from warnings upwards."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]


def requests(driver: Any) -> list[str]:
    """Return what pages from files asked for since this was last called, less what they hold themselves."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    urls = [each["request"]["url"] for each in asked if each["documentURL"].startswith("file:")]
    return [url for url in urls if not url.startswith(("data:", "blob:"))]


def wait(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Return what a condition gives once it is true."""
    stop = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < stop, f"not true within {seconds:g} s"
        time.sleep(0.02)
    return found
