"""Takes the README's picture of the page: `python -m tests.page.screenshot docs/shop.png`."""

import sys
import tempfile
from pathlib import Path

from tests.client.browser.chromium import running_chromium

from .reader import Reader
from .shop_process import running_shop

#: In this order, so that the short timelines of the last one are those to be seen.
_FAILURES = ["Lost request", "Slow server", "Crashed worker", "Double click", "Reload in mid-payment", "Lost answer"]


def take(picture: Path) -> None:
    """Pay under each failure, and take the picture."""
    with (
        tempfile.TemporaryDirectory() as directory,
        running_shop(Path(directory)) as shop,
        running_chromium() as chromium,
    ):
        reader = Reader(shop, chromium.new_context(viewport={"width": 1240, "height": 800}, reduced_motion="reduce"))
        for failure in _FAILURES:
            reader.choose(failure)
            reader.pay()
        reader.page.mouse.move(0, 0)
        picture.parent.mkdir(exist_ok=True)
        reader.page.screenshot(path=picture, full_page=True)


if __name__ == "__main__":
    take(Path(sys.argv[1]))
