"""The statements of the SQLite store. Each decides by itself: it changes a row, or finds that it may not.

Parameters that are moments are reckoned when the statement runs, however long it waited for its turn.
"""

from .states import ABANDONED, ANSWERING, CLAIMED, COMPLETED, RELEASED

# What is completed and not over is final; of anything else, this is what was seen before a write decides.
READ = """
SELECT fingerprint, state, number, started, lease_ends, expires_at, response FROM idempotency_records WHERE id = ?
"""

HOLDER = "SELECT token, state, expires_at FROM idempotency_records WHERE id = ?"

# Where no record stands. One that another has made meanwhile stays as it is.
INSERT = f"""
INSERT INTO idempotency_records
    (place, id, fingerprint, token, number, state, started, lease_ends, retention, expires_at, key, method, path)
VALUES (?, ?, ?, ?, 1, {CLAIMED}, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING
"""

# What is over, with its steps, so that a record can be inserted in its place. ?2 is now.
FORGET = "DELETE FROM idempotency_records WHERE id = ?1 AND expires_at <= ?2"

# Where a record was released, or its claim lapsed. It stays as it is unless it still is as it was seen, by the number
# of its attempt and by the rest.
CLAIM_AGAIN = f"""
UPDATE idempotency_records SET
    place = ?1, fingerprint = ?2, token = ?3, number = ?4 + 1, state = {CLAIMED}, started = ?5, lease_ends = ?6,
    retention = ?7, expires_at = ?8, key = ?9, method = ?10, path = ?11
WHERE id = ?12 AND number = ?4 AND state = ?13 AND lease_ends = ?14 AND expires_at = ?15
"""

# A tombstone that comes late never replaces the response.
COMPLETE = f"""
UPDATE idempotency_records SET state = {COMPLETED}, expires_at = ?3, response = coalesce(?4, response)
WHERE id = ?1 AND token = ?2 AND state <> {RELEASED}
"""

ANSWERING_NOW = f"""
UPDATE idempotency_records SET state = {ANSWERING}, lease_ends = ?3, expires_at = ?3 + retention
WHERE id = ?1 AND token = ?2 AND state IN ({CLAIMED}, {ANSWERING})
"""

# ?3 is now. One that was answering when its lease ended is as good as completed.
RELEASE = f"""
UPDATE idempotency_records SET state = {RELEASED}, expires_at = ?4
WHERE id = ?1 AND token = ?2 AND state <> {COMPLETED} AND NOT (state = {ANSWERING} AND lease_ends <= ?3)
"""

ABANDON = f"""
UPDATE idempotency_records SET state = {ABANDONED}, expires_at = 9e999
WHERE id = ?1 AND token = ?2
    AND (state IN ({CLAIMED}, {ABANDONED}) OR (state = {ANSWERING} AND lease_ends > ?3))
"""

_IN_DOUBT = f"id = ?1 AND expires_at > ?2 AND (state = {ABANDONED} OR (state = {CLAIMED} AND lease_ends <= ?2))"

RESOLVE = f"UPDATE idempotency_records SET state = ?3, expires_at = ?4 WHERE {_IN_DOUBT}"

# What a person says was not done includes the steps that began.
FORGET_MARKS = f"""
DELETE FROM idempotency_steps
WHERE record_id = ?1 AND result IS NULL AND EXISTS (SELECT 1 FROM idempotency_records WHERE {_IN_DOUBT})
"""

RENEW = f"""
UPDATE idempotency_records
SET lease_ends = ?3, expires_at = max(expires_at, iif(state = {ANSWERING}, ?3 + retention, ?3))
WHERE id = ?1 AND token = ?2 AND state IN ({CLAIMED}, {ANSWERING})
"""

HELD = f"SELECT 1 FROM idempotency_records WHERE id = ?1 AND token = ?2 AND state IN ({CLAIMED}, {ANSWERING})"

STEPS = "SELECT name, result FROM idempotency_steps WHERE record_id = ?"

HAS_RESULTS = "SELECT 1 FROM idempotency_steps WHERE record_id = ? AND result IS NOT NULL LIMIT 1"

# A mark that comes late never replaces the result.
KEEP_STEP = f"""
INSERT INTO idempotency_steps (record_id, name, result) SELECT ?1, ?3, ?4 WHERE EXISTS ({HELD})
ON CONFLICT DO UPDATE SET result = coalesce(excluded.result, result)
"""

PROLONG = f"""
UPDATE idempotency_records SET expires_at = max(expires_at, ?3)
WHERE id = ?1 AND token = ?2 AND state IN ({CLAIMED}, {ANSWERING})
"""

DROP_STEP = f"DELETE FROM idempotency_steps WHERE record_id = ?1 AND name = ?3 AND result IS NULL AND EXISTS ({HELD})"

# Those that may be over, the oldest first.
DUE = "SELECT place, expires_at, retention FROM idempotency_records WHERE place < ? ORDER BY place LIMIT ?"

PURGE = "DELETE FROM idempotency_records WHERE place <= ? AND expires_at <= ?"

# Of those that were due, one that lives longer than its claim foresaw.
MOVE_BACK = "UPDATE idempotency_records SET place = ?2 WHERE place = ?1 AND expires_at = ?3"
