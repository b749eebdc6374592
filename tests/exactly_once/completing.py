"""A process that completes what was left: `python -m tests.exactly_once.completing …`. Prints what the command says."""

import sys

from tests.exactly_once.abandoning import make

if __name__ == "__main__":
    done = make(*sys.argv[1:]).app.test_cli_runner().invoke(args=["idempotency", "complete"])
    print(done.output, end="")
    sys.exit(done.exit_code)
