"""The money test: processes that transfer, are killed at random, and whose clients ask until they are answered.

`python -m tests.exactly_once.money --seconds 60` runs it on PostgreSQL and prints what it counted.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

ROOT = Path(__file__).parents[2]
ACCOUNTS = 4
OPENING_BALANCE = 1_000_000
LEASE = 0.5


def make_app(database_url: str, store_url: str) -> Any:
    """The bank: one atomic view that moves money."""
    from flask import Flask, request
    from flask_sqlalchemy import SQLAlchemy

    from flask_idempotency import Idempotency, Policy
    from flask_idempotency.stores import open_store

    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = database_url
    db = SQLAlchemy(app)
    Idempotency(app, store=open_store(store_url), policy=Policy(atomic=True, lease=LEASE, on_conflict="rerun"))

    @app.post("/transfers")
    def transfer() -> Any:
        wanted = request.get_json()
        move = text("UPDATE accounts SET balance = balance + :amount WHERE id = :id")
        # In the order of the accounts, so that transfers do not deadlock.
        for account in sorted({wanted["from"], wanted["to"]}):
            amount = -wanted["amount"] if account == wanted["from"] else wanted["amount"]
            db.session.execute(move, {"amount": amount, "id": account})
            db.session.commit()  # as a view does that knows nothing of the transaction around it
        db.session.execute(text("INSERT INTO transfers (reference) VALUES (:key)"), {"key": wanted["reference"]})
        db.session.commit()
        return {"moved": wanted["amount"]}, 201

    return app


def serve(database_url: str, store_url: str, port: str) -> None:
    """Serve the bank until killed."""
    import waitress

    waitress.serve(make_app(database_url, store_url), host="127.0.0.1", port=int(port), threads=4, _quiet=True)


@dataclass
class Count:
    """What was counted in the end."""

    transfers: int
    kills: int
    requests: int
    replays: int
    sum: int
    moved_once: int
    moved_more: int
    moved_never: int


class Bank:
    """Server processes, and those who kill and restart them."""

    def __init__(self, database_url: str, store_url: str, processes: int) -> None:
        self.arguments = [database_url, store_url]
        self.ports = free_ports(processes)
        self.running: dict[int, subprocess.Popen[bytes]] = {port: self.start(port) for port in self.ports}
        self.kills = 0

    def start(self, port: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "tests.exactly_once.money", "--serve", *self.arguments, str(port)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill_one(self, chance: random.Random) -> None:
        port = chance.choice(self.ports)
        self.running[port].send_signal(signal.SIGKILL)
        self.running[port].wait()
        self.kills += 1
        self.running[port] = self.start(port)
        self.await_start(port)

    def await_start(self, port: int) -> None:
        """Wait until it serves, so that on a busy machine some do and not all are about to start."""
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.1)

    def stop(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


#: However busy the machine, it ends after so many seconds.
PATIENCE = 120


def run(
    database_url: str, *, seconds: float, least: int = 0, processes: int = 8, clients: int = 8, seed: int = 1
) -> Count:
    """Transfer for so many seconds, and until there are `least` transfers and kills, then count."""
    folder = tempfile.TemporaryDirectory()
    engine = create_engine(database_url)
    with engine.begin() as connection:
        for statement in (
            "DROP TABLE IF EXISTS accounts",
            "DROP TABLE IF EXISTS transfers",
            "CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)",
            "CREATE TABLE transfers (reference VARCHAR(50) NOT NULL)",
        ):
            connection.execute(text(statement))
        for account in range(ACCOUNTS):
            connection.execute(text(f"INSERT INTO accounts VALUES ({account}, {OPENING_BALANCE})"))
    bank = Bank(database_url, f"sqlite:///{folder.name}/idempotency.db", processes)
    answered: list[str] = []
    asked = {"requests": 0, "replays": 0}
    chance = random.Random(seed)
    started = time.monotonic()

    def go_on() -> bool:
        spent = time.monotonic() - started
        return spent < seconds or (min(len(answered), bank.kills * 4) < least and spent < PATIENCE)

    def be_a_client(seed: int) -> None:
        mine = random.Random(seed)
        while go_on():
            reference = str(uuid.uuid4())
            source, target = mine.sample(range(ACCOUNTS), 2)
            body = json.dumps({"from": source, "to": target, "amount": mine.randint(1, 100), "reference": reference})
            while True:
                asked["requests"] += 1
                status, replayed = ask(mine.choice(bank.ports), reference, body)
                if status == 201:
                    asked["replays"] += replayed
                    answered.append(reference)
                    break
                time.sleep(0.02)

    threads = [threading.Thread(target=be_a_client, args=(number,)) for number in range(clients)]
    try:
        for thread in threads:
            thread.start()
        while go_on():
            time.sleep(chance.uniform(0.1, 0.6))
            bank.kill_one(chance)
        for thread in threads:
            thread.join(timeout=60)
            assert not thread.is_alive(), "a client was never answered"
    finally:
        bank.stop()
    with engine.connect() as connection:
        total = connection.execute(text("SELECT sum(balance) FROM accounts")).scalar_one()
        moved = list(connection.execute(text("SELECT reference FROM transfers")).scalars())
    engine.dispose()
    folder.cleanup()
    times = {reference: moved.count(reference) for reference in set(answered) | set(moved)}
    return Count(
        transfers=len(answered),
        kills=bank.kills,
        requests=asked["requests"],
        replays=asked["replays"],
        sum=int(total),
        moved_once=sum(count == 1 for count in times.values()),
        moved_more=sum(count > 1 for count in times.values()),
        moved_never=sum(count == 0 for count in times.values()),
    )


def ask(port: int, key: str, body: str) -> tuple[int, bool]:
    """One attempt: the status that was heard (0 for none), and whether it was a replay."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        connection.request("POST", "/transfers", body, headers)
        response = connection.getresponse()
        response.read()
        return response.status, response.headers["Idempotent-Replayed"] == "true"
    except (OSError, HTTPException):
        return 0, False
    finally:
        connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", nargs=3, metavar=("DATABASE", "STORE", "PORT"))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--database", choices=["postgresql", "mariadb"], default="postgresql")
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    from tests import databases

    with getattr(databases, options.database)() as url:
        print(run(url, seconds=options.seconds))


if __name__ == "__main__":
    os.setpgrp()
    main()
