"""The store's statements, as each kind of database wants them. Each decision is one statement.

A claim returns a row: the claim, or what stands in its way. Where the database cannot return the latter (SQLite, and
MySQL at all), there is none, and it is looked up.

`{now}` is the database's own clock, in epoch seconds, so that hosts whose clocks differ agree. A claim that is sent
again, since its reply was lost, recognises its token: it holds what it held. Where that has been completed meanwhile,
the claim was late, not lost, and must not touch what is kept.
"""

from dataclasses import dataclass

# The moment of the call, not of the transaction.
_POSTGRESQL_NOW = "date_part('epoch', clock_timestamp())"

# The same for the whole statement, without which no index would be used.
_POSTGRESQL_STABLE_NOW = "date_part('epoch', statement_timestamp())"

# In UTC, whatever the session's time zone makes of local time.
_MYSQL_NOW = "(timestampdiff(MICROSECOND, '1970-01-01', utc_timestamp(6)) / 1000000e0)"

# SQLite has no clock but its host's: this process's is as good, and a test can stop it.
_SQLITE_NOW = ":now"

_INSERT = """
INSERT INTO {table} {alias} (id, fingerprint, token, number, lease_ends, expires_at)
VALUES (:id, :fingerprint, :token, 1, {now} + :lease, {now} + :longest)
"""

# What may be claimed though it is there: what is over, what is this very claim, and what lapsed.
_FREE = """
    found.expires_at <= {now} OR (found.token = :token AND found.lease_ends IS NOT NULL)
    OR (:take_over AND found.lease_ends <= {now} AND found.fingerprint = :fingerprint)
"""

_TAKE = f"""
ON CONFLICT (id) DO UPDATE SET
    number = CASE WHEN found.token = :token THEN found.number
                  WHEN found.expires_at <= {{now}} THEN 1 ELSE found.number + 1 END,
    fingerprint = excluded.fingerprint, token = excluded.token, response = NULL,
    lease_ends = excluded.lease_ends, expires_at = excluded.expires_at
WHERE {_FREE}
"""

_COLUMNS = "token, fingerprint, number, lease_ends, response, {now} AS now"

_FIND = f"SELECT {_COLUMNS} FROM {{table}} WHERE id = :id"

# One round trip for every decision, and what stands is only read: a replay writes and locks nothing. It is seen as of
# the statement's begin. Where another came first since then, there is no row at all, and it is looked up.
_POSTGRESQL_CLAIM = f"""
WITH standing AS (
    SELECT {_COLUMNS} FROM {{table}} AS found WHERE id = :id AND ({_FREE}) IS NOT TRUE
), claimed AS (
    INSERT INTO {{table}} AS found (id, fingerprint, token, number, lease_ends, expires_at)
    SELECT CAST(:id AS bytea), CAST(:fingerprint AS bytea), CAST(:token AS bytea), 1,
        {{now}} + CAST(:lease AS double precision), {{now}} + CAST(:longest AS double precision)
    {{durability}} WHERE NOT EXISTS (SELECT FROM standing)
    {_TAKE} RETURNING {_COLUMNS}
)
SELECT * FROM standing UNION ALL SELECT * FROM claimed
"""

# For the transaction of a claim alone, and only where one is made: its commit does not wait for the disk, nor for a
# standby. Everybody sees the claim at once nevertheless. Its completion waits, and whatever is on the disk is there
# with all that came before it: never a completion without its claim. What a crash of the server takes with it are
# claims of its last moments (thrice `wal_writer_delay`: 0.6 s), which their completions find out: see `_RESTORE`.
_POSTGRESQL_UNSYNCED = "FROM set_config('synchronous_commit', 'off', true)"

# A completion whose claim a crash of the server took with it: it claims and completes at once what it could claim now.
_RESTORE = """
INSERT INTO {table} AS found (id, fingerprint, token, number, lease_ends, expires_at, response)
VALUES (:id, :fingerprint, :token, :number, NULL, {now} + :retention, :response)
ON CONFLICT (id) DO UPDATE SET
    fingerprint = excluded.fingerprint, token = excluded.token, number = excluded.number, lease_ends = NULL,
    expires_at = excluded.expires_at, response = excluded.response
WHERE found.expires_at <= {now} OR (found.lease_ends <= {now} AND found.fingerprint = excluded.fingerprint)
"""

_SQLITE_CLAIM = f"{_INSERT} {_TAKE} RETURNING {_COLUMNS}"

# Assignments run from left to right, and each sees what those before it have made: number first, while everything
# else is as it was found; then the token, which from there on says whether the record was taken. What this very claim
# completed earlier bears its token, too: it has no lease, and its retention is not over.
_MYSQL_CLAIM = f"""
{_INSERT}
ON DUPLICATE KEY UPDATE
    number = CASE WHEN token = :token THEN number WHEN expires_at <= {{now}} THEN 1
                  WHEN :take_over AND lease_ends <= {{now}} AND fingerprint = :fingerprint THEN number + 1
                  ELSE number END,
    token = CASE WHEN expires_at <= {{now}}
                   OR (:take_over AND lease_ends <= {{now}} AND fingerprint = :fingerprint) THEN :token
                 ELSE token END,
    fingerprint = CASE WHEN {{taken}} THEN :fingerprint ELSE fingerprint END,
    response = CASE WHEN {{taken}} THEN NULL ELSE response END,
    lease_ends = CASE WHEN {{taken}} THEN {{now}} + :lease ELSE lease_ends END,
    expires_at = CASE WHEN token = :token AND lease_ends IS NOT NULL THEN {{now}} + :longest ELSE expires_at END
""".replace("{taken}", "token = :token AND (lease_ends IS NOT NULL OR expires_at <= {now})")

# A tombstone that comes late never replaces the response.
_COMPLETE = """
UPDATE {table} SET lease_ends = NULL, expires_at = {now} + :retention, response = coalesce(:response, response)
WHERE id = :id AND token = :token
"""

_RELEASE = "DELETE FROM {table} WHERE id = :id AND token = :token AND lease_ends IS NOT NULL"

# Tokens are random: one of them under another's id is no more likely than one that was guessed.
_RENEW = """
UPDATE {table} SET lease_ends = {now} + :lease,
    expires_at = CASE WHEN expires_at < {now} + :lease THEN {now} + :lease ELSE expires_at END
WHERE id IN :ids AND token IN :tokens AND lease_ends IS NOT NULL
"""

_OVER = "SELECT id FROM {table} WHERE expires_at <= {now} ORDER BY expires_at LIMIT :limit"

# Of what others hold, nothing: a purge neither waits for a claim nor makes one wait.
_OVER_AND_FREE = f"{_OVER} FOR UPDATE SKIP LOCKED"

_SQLITE_PURGE = f"DELETE FROM {{table}} WHERE id IN ({_OVER})"

# An array is made once; a subquery after IN may be run again for each row, and delete more than its limit.
_POSTGRESQL_PURGE = f"DELETE FROM {{table}} WHERE id = ANY (ARRAY({_OVER_AND_FREE}))".replace(
    "{now}", _POSTGRESQL_STABLE_NOW
)

# A DELETE cannot skip what is locked here: it follows upon the SELECT that did, in one transaction. It looks again, for
# engines whose transactions were switched off.
_MYSQL_PURGE = "DELETE FROM {table} WHERE id IN :ids AND expires_at <= {now}"


@dataclass(frozen=True, slots=True)
class Statements:
    """The statements for one kind of database."""

    claim: str
    claim_unsynced: str | None  # one that may be lost if the server crashes; None where there is no such choice
    restore: str | None  # completes what was lost so
    find: str
    complete: str
    release: str
    renew: str
    purge: str
    over: str | None  # selects and locks the `:ids` for `purge`, in its transaction; None where it needs none
    own_clock: bool  # whether `:now` must be given


def statements_for(dialect: str, table: str, *, returning: bool) -> Statements:
    """The statements for SQLAlchemy's `dialect`; `returning`: whether its INSERT can return rows."""
    if dialect == "postgresql":
        return _fill(_POSTGRESQL_NOW, table, "AS found", claim=_POSTGRESQL_CLAIM, purge=_POSTGRESQL_PURGE, lossy=True)
    if dialect == "sqlite":
        return _fill(_SQLITE_NOW, table, "AS found", claim=_SQLITE_CLAIM, purge=_SQLITE_PURGE, own_clock=True)
    if dialect in ("mysql", "mariadb"):
        claim = f"{_MYSQL_CLAIM} RETURNING {_COLUMNS}" if returning else _MYSQL_CLAIM
        return _fill(_MYSQL_NOW, table, "", claim=claim, purge=_MYSQL_PURGE, over=_OVER_AND_FREE)
    raise ValueError(f"SQLAlchemyStore knows PostgreSQL, MariaDB, MySQL and SQLite, not {dialect}.")


def _fill(
    now: str,
    table: str,
    alias: str,
    *,
    claim: str,
    purge: str,
    over: str | None = None,
    own_clock: bool = False,
    lossy: bool = False,
) -> Statements:
    def fill(text: str, durability: str = "") -> str:
        return text.format(now=now, table=table, alias=alias, durability=durability)

    return Statements(
        claim=fill(claim),
        claim_unsynced=fill(claim, _POSTGRESQL_UNSYNCED) if lossy else None,
        restore=fill(_RESTORE) if lossy else None,
        find=fill(_FIND),
        complete=fill(_COMPLETE),
        release=fill(_RELEASE),
        renew=fill(_RENEW),
        purge=fill(purge),
        over=None if over is None else fill(over),
        own_clock=own_clock,
    )
