"""A process that leaves records in the store at a URL, and is killed."""

import os
import signal
import sys

from flask_idempotency.stores import open_store

from .kept import keep_each

if __name__ == "__main__":
    _, url, run = sys.argv
    store = open_store(url)
    keep_each(store, run)
    os.kill(os.getpid(), signal.SIGKILL)
