"""Shared by the tests of the report's page: a browser, where there is one."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def chromium():
    spec = importlib.util.spec_from_file_location("page_browser", Path(__file__).with_name("browser.py"))
    browser = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(browser)
    program = browser.find()
    if program is None:
        pytest.skip("no browser: install chromium, or name one in $BROWSER, to test the report's page in it")
    with browser.Browser(program) as running:
        yield running
    assert running.processes() == []
