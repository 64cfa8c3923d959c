"""A browser for the tests of the page: Debian's chromium, driven by selenium. Without them, the tests are skipped."""

import json
import os
import shutil
import tempfile
import time

import pytest

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,1000", "--disable-dev-shm-usage")


def open_browser():
    """Return a browser. Skip the test if selenium, chromium or its driver is missing."""
    try:
        from selenium import webdriver
    except ImportError:
        pytest.skip("selenium is not installed: pip install selenium")
    if not (CHROMIUM and DRIVER):
        pytest.skip("chromium and chromedriver are not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*ARGUMENTS, f"--user-data-dir={tempfile.mkdtemp()}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.page_load_strategy = "normal"
    service = webdriver.ChromeService(executable_path=DRIVER, log_output=os.devnull)
    return webdriver.Chrome(options=options, service=service)


class Page:
    """A page in the browser. `run` evaluates JavaScript in it, with the names of its scripts."""

    def __init__(self, driver, path):
        self.driver = driver
        driver.get_log("browser")
        driver.get_log("performance")
        driver.get(path.as_uri())
        self.wait("!find('main').hidden || find('status').textContent.startsWith('The page cannot')")

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition, seconds=30):
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"return Boolean({condition})"):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    def click(self, selector):
        self.run("document.querySelector(arguments[0]).click()", selector)

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def slide(self, name, value):
        """Move a slider, as a user would."""
        self.run(
            "const input = find(`set-${arguments[0]}`); input.value = arguments[1];"
            "input.dispatchEvent(new Event('input', {bubbles: true}))",
            name,
            value,
        )

    def press(self, *keys):
        """Press keys with the focus on the page itself."""
        from selenium.webdriver.common.action_chains import ActionChains

        self.run("document.activeElement.blur()")
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def errors(self):
        """Return the messages of the console so far."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        """Return the addresses that the browser has requested for the page."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
