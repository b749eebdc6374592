"""The store's statements, as each kind of database wants them. Each decision is one statement.

A claim returns a row: the claim, or what stands in its way. Where the database cannot return the latter (SQLite, and
MySQL at all), there is none, and it is looked up.

`{now}` is the database's own clock, in epoch seconds, so that hosts whose clocks differ agree. A claim that is sent
again, since its reply was lost, recognises its token: it holds what it held. Where that has been completed meanwhile,
the claim was late, not lost, and must not touch what is kept.
"""

from dataclasses import dataclass

# The moment of the call, not of the transaction.
_POSTGRESQL_NOW = "extract(epoch FROM clock_timestamp())::double precision"

# The same for the whole statement, without which no index would be used.
_POSTGRESQL_STABLE_NOW = "extract(epoch FROM statement_timestamp())::double precision"

# In UTC, whatever the session's time zone makes of local time.
_MYSQL_NOW = "(timestampdiff(MICROSECOND, '1970-01-01', utc_timestamp(6)) / 1000000e0)"

# SQLite has no clock but its host's: this process's is as good, and a test can stop it.
_SQLITE_NOW = ":now"

_INSERT = """
INSERT INTO {table} {alias} (id, fingerprint, token, number, lease_ends, expires_at)
VALUES (:id, :fingerprint, :token, 1, {now} + :lease, {now} + :longest)
"""

_TAKE = """
ON CONFLICT (id) DO UPDATE SET
    number = CASE WHEN found.token = :token THEN found.number
                  WHEN found.expires_at <= {now} THEN 1 ELSE found.number + 1 END,
    fingerprint = excluded.fingerprint, token = excluded.token, response = NULL,
    lease_ends = excluded.lease_ends, expires_at = excluded.expires_at
WHERE found.expires_at <= {now} OR (found.token = :token AND found.lease_ends IS NOT NULL)
    OR (:take_over AND found.lease_ends <= {now} AND found.fingerprint = excluded.fingerprint)
"""

_COLUMNS = "token, fingerprint, number, lease_ends, response, {now} AS now"

_FIND = f"SELECT {_COLUMNS} FROM {{table}} WHERE id = :id"

# One round trip for every decision. What stands is seen as of the statement's begin: where another came first since
# then, there is no row at all, and the claim is sent again.
_POSTGRESQL_CLAIM = f"""
WITH claimed AS ({_INSERT} {_TAKE} RETURNING {_COLUMNS})
SELECT * FROM claimed
UNION ALL
SELECT {_COLUMNS} FROM {{table}} WHERE id = :id AND NOT EXISTS (SELECT FROM claimed)
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
        return _fill(_POSTGRESQL_NOW, table, "AS found", claim=_POSTGRESQL_CLAIM, purge=_POSTGRESQL_PURGE)
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
) -> Statements:
    def fill(text: str) -> str:
        return text.format(now=now, table=table, alias=alias)

    return Statements(
        claim=fill(claim),
        find=fill(_FIND),
        complete=fill(_COMPLETE),
        release=fill(_RELEASE),
        renew=fill(_RENEW),
        purge=fill(purge),
        over=None if over is None else fill(over),
        own_clock=own_clock,
    )
