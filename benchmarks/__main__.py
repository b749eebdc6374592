"""Runs the benchmarks: `python -m benchmarks [--quick] [--output FOLDER] [PART …]`."""

import sys

from .command import main

sys.exit(main())
