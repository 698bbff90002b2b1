"""page.py URL AXE [SHOT]: bargains on the page of haggle serve with the keyboard alone, in headless Chromium, in light and dark, on a
desk and on a phone. No console error, no finding of axe-core at any stage. With SHOT a picture of the last game goes there. Prints
`held` when all is so."""

import re
import sys
import time

from browser import audited, chromium, narrow_enough, watched

url, axe = sys.argv[1], open(sys.argv[2], encoding="utf-8").read()
shot = sys.argv[3] if len(sys.argv) > 3 else None


def until(page, holds, arg=None):
    """Asks again and again: the page's own policy lets nobody evaluate text inside of it."""
    end = time.monotonic() + 60
    while not page.evaluate(holds, arg):
        assert time.monotonic() < end, f"never: {holds}"
        page.wait_for_timeout(20)


def focused(page):
    return page.evaluate("document.activeElement.id || document.activeElement.value")


def tab_to(page, name):
    for _ in range(40):
        if focused(page) == name:
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab never comes to {name}")


def price(page, name):
    """The last price that a part of the page names; 0 where it names none."""
    named = re.findall(r"\$([0-9]+(?:\.[0-9]{2})?)", page.locator("#" + name).text_content())
    return float(named[-1]) if named else 0.0


def answered(page, before):
    """Waits until the model has answered a move."""
    until(page, "n => document.querySelectorAll('#log li').length >= n + 2 || document.querySelector('#error:not([hidden])')"
                " || document.querySelector('#move [value=offer]').disabled", before)
    assert page.locator("#error").is_hidden(), page.locator("#error").text_content()


def game(page):
    """One game as a seller who gives in and takes what is not below the cost; true where it ends in a deal."""
    page.goto(url)
    until(page, "() => document.querySelectorAll('#product option').length > 0")
    audited(page, axe, "begin")
    tab_to(page, "side")
    page.keyboard.press("s")
    tab_to(page, "start")
    page.keyboard.press("Enter")
    until(page, "() => document.activeElement.id === 'price' || document.querySelector('#error:not([hidden])')")
    assert page.locator("#error").is_hidden(), page.locator("#error").text_content()
    own, most = price(page, "limit"), price(page, "what")
    for turn in range(8):
        if page.locator("#move [value=offer]").is_disabled():
            break
        said = page.locator("#log li").count()
        takes = turn > 0 and price(page, "stand") >= own and page.locator("#move [value=accept]").is_enabled()
        if takes:
            tab_to(page, "accept")
        else:
            tab_to(page, "words")
            page.keyboard.type("It is as good as new.")
            tab_to(page, "price")
            page.keyboard.press("Control+a")
            page.keyboard.type(f"{own + (most - own) * max(0, 0.8 - 0.15 * turn):.2f}")
        page.keyboard.press("Enter")
        answered(page, said)
        if turn == 0:
            audited(page, axe, "in the middle")
    audited(page, axe, "end")
    assert focused(page) == "what", "whoever listens is told where it ended"
    return "Deal at $" in page.locator("#stand").text_content()


with chromium() as browser:
    for scheme, size in [("light", (1024, 768)), ("dark", (375, 700))]:
        page, errors = watched(browser, scheme, *size)
        assert any(game(page) for _ in range(6)), "no game ended in a deal"
        narrow_enough(page, f"{size}")
        assert not errors, errors
        if shot and scheme == "light":
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=shot, full_page=True)
        page.close()
print("held")
