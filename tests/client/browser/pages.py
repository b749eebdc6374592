"""The page that pays, and the server that it pays at."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from importlib.resources import files
from typing import Any

from playwright.sync_api import BrowserContext, Page

from ..faulty_network import PATIENCE, Fault, FaultyNetwork
from ..payment_server import Running

_MODULE = files("flask_idempotency.client").joinpath("browser/idempotency.js").read_bytes()

#: `pay` waits milliseconds where the module would wait seconds: what is tested is whether and how often, not how long.
#: It tells everything that happened to one payment.
_PAGE = """<!doctype html>
<title>Pay</title>
<link rel="icon" href="data:,">
<script type="module">
  import * as idempotency from "/idempotency.js";
  window.idempotency = idempotency;
  const QUICK = { attempts: 4, deadline: 20_000, timeout: 20_000, backoff: 1, backoffMax: 2 };
  window.told = [];
  // Whatever becomes of the clock later.
  const inTime = window.setTimeout.bind(window);
  window.pay = (payment, init) =>
    Promise.race([paying(payment, init), new Promise((hung) => inTime(hung, PATIENCE, { error: "Hung" }))]);
  const paying = async (payment, { options, path = "/payments", ...init } = {}) => {
    const attempts = [];
    const onAttempt = (attempt) => { attempts.push(attempt); told.push(attempt); };
    const fetch = idempotency.createFetch({ ...QUICK, ...options, onAttempt });
    const report = () => attempts.map(({ error, ...rest }) => ({ ...rest, error: error?.name ?? null }));
    try {
      const body = JSON.stringify(payment);
      const response = await fetch(path, { method: "POST", body, ...init });
      const text = await response.text();
      return { status: response.status, url: response.url, text, attempts: report() };
    } catch (error) {
      return { error: error.name, message: error.message, attempts: report() };
    }
  };
</script>
""".replace("PATIENCE", str(PATIENCE * 1000)).encode()


class Shop:
    """A WSGI app with the page at `/` and the module; everything else is for `till`."""

    def __init__(self, till: Callable[..., Iterable[bytes]]) -> None:
        self._till = till
        self._files = {"/": ("text/html", _PAGE), "/idempotency.js": ("text/javascript", _MODULE)}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path not in self._files:
            return self._till(environ, start_response)
        kind, content = self._files[path]
        # A sandboxed frame has an origin of its own, and may load the module nevertheless.
        headers = [("Content-Type", kind), ("Content-Length", str(len(content))), ("Access-Control-Allow-Origin", "*")]
        start_response("200 OK", headers)
        return [content]


class Customer:
    """A browser profile whose tabs show the page, behind a network that fails on demand."""

    def __init__(self, server: Running, context: BrowserContext) -> None:
        self._faults: deque[Fault] = deque()
        self.network = FaultyNetwork(server.address, lambda: self._faults.popleft() if self._faults else Fault.NONE)
        self._context = context

    def open_tab(self, *, host: str = "127.0.0.1") -> Page:
        """A tab with the page, loaded."""
        page = self._context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(self.network.url.replace("127.0.0.1", host))
        return page

    def fail(self, *faults: Fault) -> None:
        """The next requests meet these faults."""
        self._faults.extend(faults)

    def met_all(self) -> bool:
        """Whether every fault has struck."""
        return not self._faults


def until(condition: Callable[[], bool], page: Page) -> None:
    """Wait for what must come to pass, while the page lives on."""
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, "it never came to pass"
        page.wait_for_timeout(10)
