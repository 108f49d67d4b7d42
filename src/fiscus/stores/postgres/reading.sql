-- What is asked of the journal outside of commits.

-- name: tenants
SELECT name, number FROM tenants

-- name: tenant
SELECT number FROM tenants WHERE name = $1

-- name: add_tenant
INSERT INTO tenants (name) VALUES ($1) ON CONFLICT (name) DO NOTHING RETURNING number

-- name: head
SELECT last_seq, hash FROM batches WHERE tenant = $1 ORDER BY first_seq DESC LIMIT 1

-- name: entries
SELECT journal.seq, journal.at, journal.body, journal.hash, private.salt, private.body
FROM journal LEFT JOIN private ON private.tenant = journal.tenant AND private.seq = journal.seq
WHERE journal.tenant = $1 AND journal.seq > $2 ORDER BY journal.seq LIMIT $3

-- name: find_answers
SELECT key, at, answer FROM answers WHERE tenant = $1 AND key = ANY ($2::text[])

-- name: forget_answers
-- A bounded number: the engine waits for it, and comes again.
UPDATE answers SET answer = NULL WHERE (tenant, key) IN (
    SELECT tenant, key FROM answers WHERE at < $1 AND answer IS NOT NULL ORDER BY at LIMIT 5000 FOR UPDATE SKIP LOCKED
) RETURNING 1

-- name: forget_checkpoints
WITH dropped AS (
    DELETE FROM checkpoints WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM checkpoints WHERE tenant = $1 AND NOT seq = ANY ($2::bigint[]) LIMIT $3
    )) RETURNING 1
)
SELECT count(*) FROM dropped

-- name: put_checkpoint
INSERT INTO checkpoints (tenant, seq, kind, number, id, body)
SELECT $1, $2, kind, number, id, body
FROM unnest($3::smallint[], $4::bigint[], $5::text[], $6::bytea[]) AS given (kind, number, id, body)
ON CONFLICT (tenant, seq, kind, number, id) DO UPDATE SET body = excluded.body

-- name: checkpoints
-- From one to the next, without looking at their rows.
WITH RECURSIVE found (seq) AS (
    (SELECT seq FROM checkpoints WHERE tenant = $1 ORDER BY seq LIMIT 1)
    UNION ALL
    SELECT (SELECT later.seq FROM checkpoints AS later
            WHERE later.tenant = $1 AND later.seq > found.seq ORDER BY later.seq LIMIT 1)
    FROM found WHERE found.seq IS NOT NULL
)
SELECT seq FROM found WHERE seq IS NOT NULL

-- name: alone
SELECT pg_try_advisory_lock(1181315941, $1::integer)

-- name: not_alone
SELECT pg_advisory_unlock(1181315941, $1::integer)

-- name: checkpoint
SELECT kind, number, id, body FROM checkpoints WHERE tenant = $1 AND seq = $2 ORDER BY kind, number, id

-- name: min_format
SELECT min_format FROM formats

-- name: revision
SELECT version_num FROM alembic_version

-- name: make_months
SELECT make_months($1)

-- name: keep_secret
INSERT INTO secrets (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING

-- name: secret
SELECT value FROM secrets WHERE name = $1
