-- Deliveries of alerts, and how far the journal was read for them; a file of its own beside the ledger.

-- name: schema
CREATE TABLE IF NOT EXISTS progress (
    tenant TEXT PRIMARY KEY,
    version INTEGER NOT NULL DEFAULT 0,
    seq INTEGER NOT NULL DEFAULT -1,
    memory BLOB NOT NULL DEFAULT x'',
    measures BLOB NOT NULL DEFAULT x'',
    node TEXT NOT NULL DEFAULT '',
    until_ms INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE IF NOT EXISTS deliveries (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    channel TEXT NOT NULL,
    account INTEGER,
    body BLOB NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    made_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    error TEXT NOT NULL,
    node TEXT NOT NULL DEFAULT '',
    until_ms INTEGER NOT NULL DEFAULT 0,
    UNIQUE (tenant, id)
) STRICT;

CREATE INDEX IF NOT EXISTS deliveries_due ON deliveries (tenant, channel, due_at) WHERE state = 'waiting';

-- name: release
-- Whoever had claimed something has ended: the ledger's lock is ours.
UPDATE deliveries SET until_ms = 0 WHERE until_ms > 0;

-- name: release_lead
UPDATE progress SET until_ms = 0;

-- name: make_progress
INSERT INTO progress (tenant) VALUES (?) ON CONFLICT DO NOTHING;

-- name: lead
UPDATE progress SET node = ?1, until_ms = ?3 WHERE tenant = ?4 AND (node = ?1 OR until_ms <= ?2)
RETURNING version, seq, memory, measures;

-- name: step
UPDATE progress SET version = version + 1, seq = ?1, memory = ?2, measures = ?3 WHERE tenant = ?4 AND version = ?5;

-- name: put
INSERT INTO deliveries (tenant, id, channel, account, body, state, attempts, made_at, due_at, error)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- name: erase
DELETE FROM deliveries WHERE tenant = ? AND account = ?;

-- name: claim
UPDATE deliveries SET node = ?1, until_ms = ?3 WHERE number IN (
    SELECT number FROM deliveries
    WHERE tenant = ?4 AND channel = ?5 AND state = 'waiting' AND due_at <= ?2 AND until_ms <= ?2
    ORDER BY due_at, number LIMIT ?6
) RETURNING number, id, channel, account, body, state, attempts, made_at, due_at, error;

-- name: note
UPDATE deliveries SET state = ?, attempts = ?, due_at = ?, error = ?, until_ms = 0 WHERE tenant = ? AND id = ?;

-- name: deliveries
SELECT number, id, channel, account, body, state, attempts, made_at, due_at, error FROM deliveries
WHERE tenant = ?1 AND number > ?2 AND (?3 IS NULL OR state = ?3) ORDER BY number LIMIT ?4;

-- name: counts
SELECT channel, sum(state = 'waiting'), sum(state = 'dead'), min(CASE WHEN state = 'waiting' THEN made_at END)
FROM deliveries WHERE tenant = ? GROUP BY channel ORDER BY channel;

-- name: retry
UPDATE deliveries SET state = 'waiting', made_at = ?1, due_at = ?1, attempts = 0
WHERE tenant = ?2 AND state = 'dead' AND (?3 IS NULL OR id = ?3);

-- name: forget
DELETE FROM deliveries WHERE number IN (
    SELECT number FROM deliveries
    WHERE tenant = ?1 AND (
        state = 'sent' AND made_at < ?2 OR state = 'dead' AND made_at < ?3 OR state = 'waiting' AND made_at < ?4
    ) LIMIT ?5
);
