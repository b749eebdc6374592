"""What SQLite is asked to do, and which commits wait for the disk, as SQLite itself reports it."""

import sqlite3
from collections import Counter
from typing import Any

import pytest


class Trace:
    """Every statement that any connection runs from now on, as SQLite itself reports it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statements: Counter[str] = Counter()
        self.commits: Counter[str] = Counter()
        connect = sqlite3.connect

        def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*args, **kwargs)
            connection.set_trace_callback(_Tap(self).note)
            return connection

        monkeypatch.setattr(sqlite3, "connect", traced)

    def read_statements(self) -> Counter[str]:
        return self.statements.copy()

    def read_commits(self) -> Counter[str]:
        return self.commits.copy()


class _Tap:
    """One connection's statements: it knows whether its commits wait for the disk, and when it commits."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._synced = True  # SQLite's own default is FULL
        self._in_transaction = self._wrote = False
        self._last = ""

    def note(self, statement: str) -> None:
        verb = statement.split()[0].upper()
        again = statement == self._last and verb == "DELETE"
        self._last = statement
        if again:  # as it is reported once more for each run of the trigger by which steps go with their record
            return
        if verb == "PRAGMA":
            if "synchronous" in statement:
                self._synced = "FULL" in statement.upper()
            return
        if verb == "BEGIN":
            self._in_transaction, self._wrote = True, False
        elif verb == "COMMIT":
            self._in_transaction = False
            self._count_commit()
        else:
            self._trace.statements[verb] += 1
            self._wrote = self._wrote or verb != "SELECT"
            if not self._in_transaction:
                self._count_commit()

    def _count_commit(self) -> None:
        if self._wrote:
            self._trace.commits["synced" if self._synced else "unsynced"] += 1
        self._wrote = False
