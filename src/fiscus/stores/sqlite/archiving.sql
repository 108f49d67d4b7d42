-- Dropping entries that were archived, from the oldest one on: whatever is left is a journal without a gap.

-- name: schema
CREATE TABLE IF NOT EXISTS archived_ids (
    tenant INTEGER NOT NULL,
    key TEXT NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;

-- name: guard
-- Only where there are archived ids: they are taken for ever.
CREATE TRIGGER IF NOT EXISTS archived_ids_taken BEFORE INSERT ON journal
WHEN new.key IS NOT NULL AND EXISTS (SELECT 1 FROM archived_ids WHERE tenant = new.tenant AND key = new.key)
BEGIN SELECT RAISE(ABORT, 'UNIQUE constraint failed: archived_ids.key'); END;

-- name: first
SELECT min(seq) FROM journal WHERE tenant = ?;

-- name: keep_ids
INSERT OR IGNORE INTO archived_ids (tenant, key)
SELECT tenant, key FROM journal WHERE tenant = ? AND seq <= ? AND key IS NOT NULL;

-- name: put_id
INSERT OR IGNORE INTO archived_ids (tenant, key) VALUES (?, ?);

-- name: drop_private
DELETE FROM private WHERE tenant = ? AND seq <= ?;

-- name: drop_entries
DELETE FROM journal WHERE tenant = ? AND seq <= ?;

-- name: first_usage
SELECT min(seq) FROM usage WHERE tenant = ?;

-- name: drop_usage
DELETE FROM usage WHERE (tenant, seq) IN (
    SELECT tenant, seq FROM usage WHERE tenant = ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3
);
