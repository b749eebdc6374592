"""What safety costs: this library beside its peers and its floors. `python -m benchmarks --help`."""
