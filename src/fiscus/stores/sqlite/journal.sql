-- The truth. Appended to, never rewritten; only the private parts beside it can be erased.

-- name: schema
CREATE TABLE IF NOT EXISTS tenants (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE IF NOT EXISTS journal (
    tenant INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,      -- ms since the epoch
    key TEXT,                 -- id of a hold, or of usage booked without one
    body BLOB NOT NULL,       -- the event, JSON
    hash BLOB NOT NULL,       -- SHA-256 over the hash before, seq, at, body
    PRIMARY KEY (tenant, seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS journal_key ON journal (tenant, key) WHERE key IS NOT NULL;
CREATE TABLE IF NOT EXISTS answers (
    tenant INTEGER NOT NULL,
    key TEXT NOT NULL,        -- an idempotency key
    at INTEGER NOT NULL,
    answer BLOB,              -- JSON; NULL once it is not kept any more
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS private (
    tenant INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    account INTEGER NOT NULL,
    salt BLOB NOT NULL,       -- key of the commitment in the event
    body BLOB NOT NULL,       -- names, labels, reasons, records; JSON
    PRIMARY KEY (tenant, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS private_account ON private (tenant, account);
CREATE TABLE IF NOT EXISTS checkpoints (
    tenant INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    key ANY NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (tenant, seq, kind, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS checkpoints_private ON checkpoints (tenant, key) WHERE kind < 0;
CREATE TABLE IF NOT EXISTS formats (
    format INTEGER NOT NULL
) STRICT;

-- name: tenants
SELECT name, number FROM tenants;

-- name: add_tenant
INSERT INTO tenants (name) VALUES (?) ON CONFLICT (name) DO NOTHING;

-- name: has_format
SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'formats';

-- name: format
SELECT max(format) FROM formats;

-- name: set_format
INSERT INTO formats (format) SELECT ?1 WHERE NOT EXISTS (SELECT 1 FROM formats WHERE format >= ?1);

-- name: head
SELECT seq, hash FROM journal WHERE tenant = ? ORDER BY seq DESC LIMIT 1;

-- name: append
-- The journal adds one more row of values per further entry of a batch.
INSERT INTO journal (tenant, seq, at, key, body, hash) VALUES (?, ?, ?, ?, ?, ?)

-- name: put_answer
INSERT INTO answers (tenant, key, at, answer) VALUES (?, ?, ?, ?);

-- name: put_private
INSERT INTO private (tenant, seq, account, salt, body) VALUES (?, ?, ?, ?, ?);

-- name: entries
SELECT journal.seq, journal.at, journal.body, journal.hash, private.salt, private.body
FROM journal LEFT JOIN private USING (tenant, seq)
WHERE journal.tenant = ? AND journal.seq > ? ORDER BY journal.seq LIMIT ?;

-- name: find_answers
SELECT key, at, answer FROM answers WHERE tenant = ? AND key IN (SELECT value FROM json_each(?));

-- name: forget_answers
UPDATE answers SET answer = NULL WHERE at < ? AND answer IS NOT NULL;

-- name: erase
DELETE FROM private WHERE tenant = ? AND account = ?;

-- name: erase_answers
-- Kept answers that name the account, by its name as JSON writes it.
UPDATE answers SET answer = NULL WHERE tenant = ? AND instr(CAST(answer AS TEXT), ?) > 0;

-- name: erase_sealed
-- What names an account in sealed states: -1 is the private part of kind 0.
DELETE FROM checkpoints WHERE tenant = ? AND key = ? AND kind < 0 AND kind = -1;

-- name: erase_sealed_key
-- What a key is called: -7 is the private part of kind 6.
DELETE FROM checkpoints WHERE tenant = ? AND key = ? AND kind < 0 AND kind = -7;

-- name: forget_checkpoints
DELETE FROM checkpoints WHERE (tenant, seq, kind, key) IN (
    SELECT tenant, seq, kind, key FROM checkpoints
    WHERE tenant = ?1 AND seq NOT IN (SELECT value FROM json_each(?2)) LIMIT ?3
);

-- name: put_checkpoint
INSERT OR REPLACE INTO checkpoints (tenant, seq, kind, key, body) VALUES (?, ?, ?, ?, ?);

-- name: checkpoints
-- From one to the next, without looking at their rows.
WITH RECURSIVE found (seq) AS (
    SELECT min(seq) FROM checkpoints WHERE tenant = ?1
    UNION ALL
    SELECT (SELECT min(checkpoints.seq) FROM checkpoints WHERE tenant = ?1 AND checkpoints.seq > found.seq)
    FROM found WHERE found.seq IS NOT NULL
)
SELECT seq FROM found WHERE seq IS NOT NULL;

-- name: checkpoint
SELECT kind, key, body FROM checkpoints WHERE tenant = ? AND seq = ? ORDER BY kind, key;
