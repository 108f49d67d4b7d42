-- Reading a whole journal in one consistent view, also while another process appends to it.

-- name: begin
BEGIN;

-- name: heads
-- What this reads fixes the view: all that follows is as of now.
SELECT tenants.number, tenants.name, coalesce(max(journal.seq), 0), count(journal.seq),
       (SELECT count(*) FROM answers WHERE answers.tenant = tenants.number)
FROM tenants LEFT JOIN journal ON journal.tenant = tenants.number
GROUP BY tenants.number ORDER BY tenants.number;

-- name: rows
SELECT journal.seq, journal.at, journal.key, journal.body, journal.hash,
       private.account, private.salt, private.body
FROM journal LEFT JOIN private USING (tenant, seq)
WHERE journal.tenant = ? ORDER BY journal.seq;

-- name: answers
SELECT tenant, key, at, coalesce(answer, x'') FROM answers WHERE tenant = ? ORDER BY key;

-- name: sealed
SELECT kind, key, body FROM checkpoints WHERE tenant = ? AND seq = ? ORDER BY kind, key;

-- name: has_archived_ids
SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'archived_ids';

-- name: archived_ids
SELECT key FROM archived_ids WHERE tenant = ? ORDER BY key;
