"""The store's statements, as each kind of database wants them. Each decision is one statement.

A claim returns a row: the claim, or what stands there. Where the database cannot return the latter (SQLite, and MySQL
at all), there is none, and it is looked up. What was given back or has lapsed is then taken, by a second statement.

`{now}` is the database's own clock, in epoch seconds, so that hosts whose clocks differ agree. A claim that is sent
again, since its reply was lost, recognises its token. Where that has been completed meanwhile, the claim was late, not
lost, and must not touch what is kept.
"""

from dataclasses import dataclass
from typing import Any

# The moment of the call, not of the transaction.
_POSTGRESQL_NOW = "date_part('epoch', clock_timestamp())"

# The same for the whole statement, without which no index would be used.
_POSTGRESQL_STABLE_NOW = "date_part('epoch', statement_timestamp())"

# In UTC, whatever the session's time zone makes of local time.
_MYSQL_NOW = "(timestampdiff(MICROSECOND, '1970-01-01', utc_timestamp(6)) / 1000000e0)"

# SQLite has no clock but its host's: this process's is as good, and a test can stop it.
_SQLITE_NOW = ":now"

_NAMES = (
    "id, idempotency_key, method, path, fingerprint, token, number, lapsed, state, steps, started, lease_ends, "
    "expires_at, retention"
)

_INSERT = f"""
INSERT INTO {{records}} {{alias}} ({_NAMES})
VALUES (:id, :key, :method, :path, :fingerprint, :token, 1, FALSE, 'running', 0, {{now}}, {{now}} + :lease,
        {{now}} + :longest, :retention)
"""

# What the record says to the bearer of a token: "mine" of a claim that is its own, "over" of what need not be there,
# "stepped" of what was given back after a step was kept, else its state.
_COLUMNS = """
CASE WHEN expires_at <= {now} THEN 'over'
     WHEN state = 'running' AND token = :token THEN 'mine'
     WHEN state = 'released' AND steps = 2 THEN 'stepped'
     ELSE state END AS says,
fingerprint, number, lapsed, {now} - started AS age, lease_ends - {now} AS remaining, response
"""

_FIND = f"SELECT {_COLUMNS} FROM {{records}} WHERE id = :id"

# One round trip for what stands and for what is claimed where nothing does: a replay writes and locks nothing. What
# stands is seen as of the statement's begin. Where another came first since then, there is no row at all, and it is
# looked up. Whatever is more than this (conflicts that update, rows that are returned) would cost a replay, too.
_POSTGRESQL_CLAIM = f"""
WITH found AS ({_FIND}), claimed AS (
    INSERT INTO {{records}} ({_NAMES})
    SELECT CAST(:id AS bytea), CAST(:key AS text), CAST(:method AS text), CAST(:path AS text),
        CAST(:fingerprint AS bytea), CAST(:token AS bytea), 1, FALSE, 'running', 0, {{now}},
        {{now}} + CAST(:lease AS double precision), {{now}} + CAST(:longest AS double precision),
        CAST(:retention AS double precision)
    {{durability}} WHERE NOT EXISTS (SELECT FROM found)
    ON CONFLICT DO NOTHING RETURNING 1
)
SELECT * FROM found
UNION ALL SELECT 'mine', NULL, 1, FALSE, 0, CAST(:lease AS double precision), NULL FROM claimed
"""

# For the transaction of a claim alone, and only where nothing stands: its commit does not wait for the disk, nor for a
# standby. Everybody sees the claim at once nevertheless. Its completion waits, and whatever is on the disk is there
# with all that came before it: never a completion without its claim. What a crash of the server takes with it are
# claims of its last moments (thrice `wal_writer_delay`: 0.6 s): their records are gone, and completing makes them anew.
_POSTGRESQL_UNSYNCED = "FROM set_config('synchronous_commit', 'off', true)"

_SQLITE_CLAIM = f"{_INSERT} ON CONFLICT DO NOTHING RETURNING {_COLUMNS}"

# Of a record that stands, this changes nothing.
_MYSQL_CLAIM = f"{_INSERT} ON DUPLICATE KEY UPDATE number = number"

# What may be claimed though it is there: this very claim, what was given back, and what lapsed. What is over is
# forgotten first, with its steps. The record lives no shorter than it would have: it may have steps that were kept for
# longer. On MySQL, assignments run from left to right, and each sees what those before it have made.
_TAKE = """
UPDATE {records} SET
    lapsed = CASE WHEN token = :token THEN lapsed ELSE state = 'running' END,
    number = CASE WHEN token = :token THEN number ELSE number + 1 END,
    fingerprint = :fingerprint, token = :token, state = 'running', started = {now}, lease_ends = {now} + :lease,
    retention = :retention,
    expires_at = CASE WHEN expires_at > {now} + :longest THEN expires_at ELSE {now} + :longest END
WHERE id = :id AND (expires_at IS NULL OR expires_at > {now}) AND CASE state
    WHEN 'running' THEN token = :token OR (:take_over AND lease_ends <= {now} AND fingerprint = :fingerprint)
    WHEN 'released' THEN steps < 2 OR fingerprint = :fingerprint
    ELSE FALSE END
"""

_HELD = "id = :id AND token = :token"

# A tombstone that comes late never replaces the response.
_COMPLETE = f"""
UPDATE {{records}} SET state = 'completed', lease_ends = NULL, expires_at = {{now}} + :retention,
    response = coalesce(:response, response)
WHERE {_HELD} AND state <> 'released'
"""

# Of one that is gone. A record that stands stays as it is.
_ANEW = f"""
INSERT {{ignore}} INTO {{records}} ({_NAMES}, response)
VALUES (:id, :key, :method, :path, :fingerprint, :token, 1, FALSE, :state, 0, {{now}}, {{now}} + :lease,
        {{now}} + :retention, :retention, :response)
{{or_nothing}}
"""

# Should its lease end, it is completed, and kept from then on. What is completed already stays as it is. State last:
# on MySQL, assignments see what those before them have made.
_ANSWER = f"""
UPDATE {{records}} SET
    lease_ends = CASE WHEN state = 'completed' THEN NULL ELSE {{now}} + :lease END,
    expires_at = CASE WHEN state = 'completed' THEN expires_at ELSE {{now}} + :lease + retention END,
    state = CASE WHEN state = 'completed' THEN state ELSE 'answering' END
WHERE {_HELD} AND state IN ('running', 'answering', 'completed')
"""

_RELEASE = f"""
UPDATE {{records}} SET state = 'released', lease_ends = NULL, expires_at = {{now}} + :retention
WHERE {_HELD} AND (expires_at IS NULL OR expires_at > {{now}})
    AND (state IN ('running', 'released') OR (state = 'answering' AND lease_ends > {{now}}))
"""

_ABANDON = f"""
UPDATE {{records}} SET state = 'abandoned', lease_ends = NULL, expires_at = NULL
WHERE {_HELD} AND (state IN ('running', 'abandoned') OR (state = 'answering' AND lease_ends > {{now}}))
"""

# Under a token of the person's own: whoever held it is fenced, and an answer sent again recognises itself.
_RESOLVE = """
UPDATE {records} SET token = :token, state = CASE WHEN :done THEN 'completed' ELSE 'released' END, lease_ends = NULL,
    expires_at = {now} + :retention
WHERE id = :id AND (expires_at IS NULL OR expires_at > {now})
    AND (token = :token OR state = 'abandoned' OR (state = 'running' AND lease_ends <= {now}))
"""

# A claim that nobody ran under is undone. Under a token that nobody has: sent again, it must not be undone twice.
_UNDO_FIRST = f"DELETE FROM {{records}} WHERE {_HELD} AND state = 'running' AND number = 1"

# One that was taken over lapses again: what its holder did is not known.
_UNDO = f"""
UPDATE {{records}} SET token = :nobody, number = number - 1, lease_ends = CASE WHEN lapsed THEN 0 ELSE NULL END,
    state = CASE WHEN lapsed THEN 'running' ELSE 'released' END,
    expires_at = CASE WHEN lapsed THEN expires_at ELSE {{now}} + :retention END
WHERE {_HELD} AND state = 'running'
"""

# Tokens are random: one of them under another's id is no more likely than one that was guessed.
_RENEW = """
UPDATE {records} SET lease_ends = {now} + :lease,
    expires_at = CASE WHEN state = 'answering' THEN {now} + :lease + retention
                      WHEN expires_at < {now} + :lease THEN {now} + :lease ELSE expires_at END
WHERE id IN :ids AND token IN :tokens AND state IN ('running', 'answering')
"""

_HOLDERS = "SELECT id, token FROM {records} WHERE id IN :ids AND (expires_at IS NULL OR expires_at > {now})"

_FORGET = "DELETE FROM {records} WHERE id = :id AND expires_at <= {now}"

# Locks the record, so that nobody takes over until the step is written.
_HOLD = f"""
UPDATE {{records}} SET steps = CASE WHEN steps < :kept THEN :kept ELSE steps END,
    expires_at = CASE WHEN expires_at < {{now}} + :retention THEN {{now}} + :retention ELSE expires_at END
WHERE {_HELD} AND state IN ('running', 'answering')
"""

_LOAD_STEPS = "SELECT name, result FROM {steps} WHERE record_id = :id"

# That a step begins never replaces its result.
_KEEP_STEP = """
INSERT INTO {steps} {alias} (record_id, name, result) VALUES (:id, :name, :result)
ON CONFLICT (record_id, name) DO UPDATE SET result = coalesce(excluded.result, found.result)
"""

_MYSQL_KEEP_STEP = """
INSERT INTO {steps} (record_id, name, result) VALUES (:id, :name, :result)
ON DUPLICATE KEY UPDATE result = coalesce(:result, result)
"""

_DROP_STEP = "DELETE FROM {steps} WHERE record_id = :id AND name = :name AND result IS NULL"

# What began and was not kept was not done, once a person knows that the whole was not.
_DROP_BEGUN = "DELETE FROM {steps} WHERE record_id = :id AND result IS NULL"

_DROP_STEPS = "DELETE FROM {steps} WHERE record_id = :id"

_POSTGRESQL_FORGET = f"""
WITH gone AS ({_FORGET} RETURNING id) DELETE FROM {{steps}} WHERE record_id IN (SELECT id FROM gone)
"""

_POSTGRESQL_KEEP_STEP = f"""
WITH held AS ({_HOLD} RETURNING id), kept AS (
    INSERT INTO {{steps}} AS found (record_id, name, result)
    SELECT id, CAST(:name AS bytea), CAST(:result AS bytea) FROM held
    ON CONFLICT (record_id, name) DO UPDATE SET result = coalesce(excluded.result, found.result)
)
SELECT id FROM held
"""

_POSTGRESQL_DROP_STEP = f"""
WITH held AS ({_HOLD} RETURNING id), dropped AS ({_DROP_STEP} AND record_id IN (SELECT id FROM held))
SELECT id FROM held
"""

_POSTGRESQL_RESOLVE = f"""
WITH resolved AS ({_RESOLVE} RETURNING id), dropped AS ({_DROP_BEGUN} AND record_id IN (SELECT id FROM resolved))
SELECT id FROM resolved
"""

_OVER = "SELECT id FROM {records} WHERE expires_at <= {now} ORDER BY expires_at LIMIT :limit"

# Of what others hold, nothing: a purge neither waits for a claim nor makes one wait.
_OVER_AND_FREE = f"{_OVER} FOR UPDATE SKIP LOCKED"

# An array is made once; a subquery after IN may be run again for each row, and delete more than its limit.
_POSTGRESQL_PURGE = f"""
WITH gone AS (DELETE FROM {{records}} WHERE id = ANY (ARRAY({_OVER_AND_FREE})) RETURNING id),
    theirs AS (DELETE FROM {{steps}} WHERE record_id IN (SELECT id FROM gone))
SELECT count(*) FROM gone
""".replace("{now}", _POSTGRESQL_STABLE_NOW)

# A DELETE cannot skip what is locked here: it follows upon the SELECT that did, in one transaction. It looks again, for
# engines whose transactions were switched off.
_PURGE = "DELETE FROM {records} WHERE id IN :ids AND expires_at <= {now}"

# Of records that are gone only.
_PURGE_STEPS = (
    "DELETE FROM {steps} WHERE record_id IN :ids AND NOT EXISTS (SELECT 1 FROM {records} WHERE id = record_id)"
)


@dataclass(frozen=True, slots=True)
class Statements:
    """The statements for one kind of database.

    Those of a tuple are run in one transaction, unless the first of them changes nothing. On PostgreSQL they are one
    statement, which returns a row where the first would have changed one.
    """

    claim: str
    claim_unsynced: str | None  # one that may be lost if the server crashes; None where there is no such choice
    take: str
    find: str
    complete: str
    anew: str
    answer: str
    release: str
    abandon: str
    undo_first: str
    undo: str
    renew: str
    holders: str
    forget: tuple[str, ...]
    load_steps: str
    keep_step: tuple[str, ...]
    drop_step: tuple[str, ...]
    resolve: tuple[str, ...]
    over: str | None  # selects and locks the `:ids` for `purge`, in its transaction; None where it needs none
    purge: tuple[str, ...]  # of `:ids`; or one that returns how many it deleted
    own_clock: bool = False  # whether `:now` must be given


def statements_for(dialect: str, records: str, steps: str, *, returning: bool) -> Statements:
    """The statements for SQLAlchemy's `dialect`, over these tables; `returning`: whether its INSERT returns rows."""
    if dialect == "postgresql":
        return _postgresql(_Words(_POSTGRESQL_NOW, records, steps))
    if dialect == "sqlite":
        return _sqlite(_Words(_SQLITE_NOW, records, steps))
    if dialect in ("mysql", "mariadb"):
        return _mysql(_Words(_MYSQL_NOW, records, steps), returning=returning)
    raise ValueError(f"SQLAlchemyStore knows PostgreSQL, MariaDB, MySQL and SQLite, not {dialect}.")


@dataclass(frozen=True, slots=True)
class _Words:
    now: str
    records: str
    steps: str

    def fill(self, text: str, alias: str = "AS found", **others: str) -> str:
        return text.format(now=self.now, records=self.records, steps=self.steps, alias=alias, **others)

    def everywhere(self) -> dict[str, Any]:
        """The statements that are the same on all databases."""
        same = {
            "take": _TAKE,
            "find": _FIND,
            "complete": _COMPLETE,
            "answer": _ANSWER,
            "release": _RELEASE,
            "abandon": _ABANDON,
            "undo_first": _UNDO_FIRST,
            "undo": _UNDO,
            "renew": _RENEW,
            "holders": _HOLDERS,
            "load_steps": _LOAD_STEPS,
        }
        return {name: self.fill(text) for name, text in same.items()}


def _postgresql(words: _Words) -> Statements:
    return Statements(
        **words.everywhere(),
        claim=words.fill(_POSTGRESQL_CLAIM, durability=""),
        claim_unsynced=words.fill(_POSTGRESQL_CLAIM, durability=_POSTGRESQL_UNSYNCED),
        anew=words.fill(_ANEW, ignore="", or_nothing="ON CONFLICT DO NOTHING"),
        forget=(words.fill(_POSTGRESQL_FORGET),),
        keep_step=(words.fill(_POSTGRESQL_KEEP_STEP),),
        drop_step=(words.fill(_POSTGRESQL_DROP_STEP),),
        resolve=(words.fill(_POSTGRESQL_RESOLVE),),
        over=None,
        purge=(words.fill(_POSTGRESQL_PURGE),),
    )


def _sqlite(words: _Words) -> Statements:
    return Statements(
        **words.everywhere(),
        claim=words.fill(_SQLITE_CLAIM),
        claim_unsynced=None,
        anew=words.fill(_ANEW, ignore="", or_nothing="ON CONFLICT DO NOTHING"),
        forget=(words.fill(_FORGET), words.fill(_DROP_STEPS)),
        keep_step=(words.fill(_HOLD), words.fill(_KEEP_STEP)),
        drop_step=(words.fill(_HOLD), words.fill(_DROP_STEP)),
        resolve=(words.fill(_RESOLVE), words.fill(_DROP_BEGUN)),
        over=words.fill(_OVER),
        purge=(words.fill(_PURGE), words.fill(_PURGE_STEPS)),
        own_clock=True,
    )


def _mysql(words: _Words, *, returning: bool) -> Statements:
    claim = f"{_MYSQL_CLAIM} RETURNING {_COLUMNS}" if returning else _MYSQL_CLAIM
    return Statements(
        **words.everywhere(),
        claim=words.fill(claim, alias=""),
        claim_unsynced=None,
        anew=words.fill(_ANEW, ignore="IGNORE", or_nothing=""),
        forget=(words.fill(_FORGET), words.fill(_DROP_STEPS)),
        keep_step=(words.fill(_HOLD), words.fill(_MYSQL_KEEP_STEP)),
        drop_step=(words.fill(_HOLD), words.fill(_DROP_STEP)),
        resolve=(words.fill(_RESOLVE), words.fill(_DROP_BEGUN)),
        over=words.fill(_OVER_AND_FREE),
        purge=(words.fill(_PURGE), words.fill(_PURGE_STEPS)),
    )
