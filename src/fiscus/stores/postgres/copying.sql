-- Reading a whole journal in one consistent view, also while nodes append to it.

-- name: heads
-- What this reads fixes the view: all that follows is as of now.
SELECT tenants.number, tenants.name, coalesce(ends.last, 0), coalesce(ends.last - ends.first + 1, 0),
    (SELECT count(*) FROM answers WHERE answers.tenant = tenants.number)
FROM tenants CROSS JOIN LATERAL (
    SELECT (SELECT min(seq) FROM journal WHERE journal.tenant = tenants.number) AS first,
        (SELECT max(seq) FROM journal WHERE journal.tenant = tenants.number) AS last
) AS ends
ORDER BY tenants.number

-- name: rows
SELECT journal.seq, journal.at, journal.body, journal.hash, private.account, private.salt, private.body
FROM journal LEFT JOIN private ON private.tenant = journal.tenant AND private.seq = journal.seq
WHERE journal.tenant = $1 ORDER BY journal.seq

-- name: answers
SELECT tenant, key, at, coalesce(answer, ''::bytea) FROM answers WHERE tenant = $1 ORDER BY key

-- name: sealed
SELECT kind, number, id, body FROM checkpoints WHERE tenant = $1 AND seq = $2 ORDER BY kind, number, id

-- name: archived_ids
SELECT key FROM ids WHERE tenant = $1 AND seq <= $2 ORDER BY key
