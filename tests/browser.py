"""What the tests of pages share: a headless Chromium, pages whose errors are kept, axe-core."""

import shutil
from contextlib import contextmanager

from playwright.sync_api import sync_playwright


@contextmanager
def chromium():
    """A browser, for as long as it is used."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


def watched(browser, scheme, width, height):
    """A page in light or dark of this size, and the list that its errors go to."""
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": height})
    page.set_default_timeout(60_000)
    errors = []
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", lambda request: errors.append(request.url))
    return page, errors


def audited(page, axe, when):
    """No finding of axe-core."""
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert not found, (when, [(one["id"], [node["html"][:300] for node in one["nodes"]][:5]) for one in found])


def narrow_enough(page, when):
    """Nothing makes the page wider than the screen."""
    wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1], f"{when}: the page is wider than the screen: {wide}"
