"""The decision: run, replay or refuse. Standard library only; knows no HTTP, no Flask and no store in particular."""
