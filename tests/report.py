"""report.py AXE PAGE...: looks at pages that lie on disk in headless Chromium, in light and dark, at three widths, folded and with all that
opens open. No console error, nothing loaded but the page itself, no finding of axe-core, no page wider than the screen. With
`--shot FOLDER` the first screen of the first page goes there at 1280 and 390 pixels. Prints `held` when all is so."""

import pathlib
import sys

from browser import audited, chromium, narrow_enough, watched

args = sys.argv[1:]
shots = None
if "--shot" in args:
    at = args.index("--shot")
    shots = pathlib.Path(args[at + 1])
    del args[at : at + 2]
axe = open(args[0], encoding="utf-8").read()
pages = [pathlib.Path(path).resolve() for path in args[1:]]
SIZES = [(390, 844), (800, 1000), (1280, 900)]


def looked_at(browser, path, scheme, size):
    when = f"{path.parent.name}/{path.name} at {size[0]} in the {scheme}"
    page, errors = watched(browser, scheme, *size)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    assert asked == [path.as_uri()], f"{when}: loads {asked}"
    narrow_enough(page, when)
    audited(page, axe, when)
    if shots and path == pages[0] and scheme == "light" and size[0] != 800:
        page.screenshot(path=shots / f"report-{size[0]}.png")
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    narrow_enough(page, when + ", all open")
    audited(page, axe, when + ", all open")
    assert not errors, (when, errors)
    page.close()


with chromium() as browser:
    for path in pages:
        for scheme in ("light", "dark"):
            for size in SIZES:
                looked_at(browser, path, scheme, size)
print("held")
