-- What the one node that writes the views runs.

-- name: begin
BEGIN ISOLATION LEVEL READ COMMITTED

-- name: commit
COMMIT

-- name: rollback
ROLLBACK

-- name: lead
-- Whether this connection is, from now on or already, the one that writes the views.
SELECT pg_try_advisory_lock(1181315940, 0)

-- name: marks
SELECT tenant, seq FROM watermarks WHERE tenant = ANY ($1::integer[])

-- name: hold_mark
SELECT seq FROM watermarks WHERE tenant = $1::integer FOR UPDATE

-- name: fits
-- Whether the journal has the entry that a snapshot is as of: as such, or as the end of a commit whose month was archived.
-- Nothing can be said where there is no journal at all.
SELECT EXISTS (
    SELECT 1 FROM journal WHERE tenant = $1::integer AND seq = $2::bigint AND at = $3::bigint AND hash = $4::bytea
) OR (
    -- The state that the journal begins with, for what came before was archived.
    EXISTS (SELECT 1 FROM checkpoints WHERE tenant = $1::integer AND seq = $2::bigint)
    AND NOT EXISTS (SELECT 1 FROM journal WHERE tenant = $1::integer AND seq <= $2::bigint)
) OR EXISTS (
    SELECT 1 FROM (
        SELECT last_seq, hash FROM batches WHERE tenant = $1::integer AND first_seq <= $2::bigint
        ORDER BY first_seq DESC LIMIT 1
    ) AS batch
    WHERE last_seq = $2::bigint AND hash = $4::bytea
) OR NOT EXISTS (SELECT 1 FROM batches WHERE tenant = $1::integer)

-- name: put_entities
INSERT INTO entities (
    tenant, kind, number, id, body, name, owner, template, carved, live, due_at, due_rank, due_depth, touched_at
)
SELECT $1::integer, kind, number, id, body, name, owner, template, carved, live, due_at, due_rank, due_depth, $14::bigint
FROM unnest(
    $2::integer[], $3::bigint[], $4::text[], $5::bytea[], $6::text[], $7::bigint[], $8::text[], $9::boolean[],
    $10::boolean[], $11::bigint[], $12::integer[], $13::integer[]
) AS given (kind, number, id, body, name, owner, template, carved, live, due_at, due_rank, due_depth)
ON CONFLICT (tenant, kind, number, id) DO UPDATE SET
    body = excluded.body, name = excluded.name, owner = excluded.owner, template = excluded.template,
    carved = excluded.carved, live = excluded.live, due_at = excluded.due_at, due_rank = excluded.due_rank,
    due_depth = excluded.due_depth, touched_at = excluded.touched_at

-- name: put_usage
-- What stands there already was written by a node that was further then.
INSERT INTO usage (
    tenant, seq, at, hold, account, also, amounts, uncovered, estimated, model, provider, record
)
SELECT $1::integer, * FROM unnest(
    $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::bytea[], $7::bytea[], $8::bytea[], $9::boolean[],
    $10::text[], $11::text[], $12::bytea[]
)
ON CONFLICT DO NOTHING

-- name: erase_usage
UPDATE usage SET record = NULL
WHERE tenant = $1::integer AND account = $2::bigint AND seq <= $3::bigint AND record IS NOT NULL

-- name: set_watermark
INSERT INTO watermarks (tenant, seq, hash, at, accounts, budgets, cells)
VALUES ($1::integer, $2::bigint, $3::bytea, $4::bigint, $5::bigint, $6::bigint, $7::bigint)
ON CONFLICT (tenant) DO UPDATE SET
    seq = excluded.seq, hash = excluded.hash, at = excluded.at, accounts = excluded.accounts,
    budgets = excluded.budgets, cells = excluded.cells

-- name: prune_ended
-- Holds and loans that have ended and whose answers are not kept any more; their ids stay with the journal.
DELETE FROM entities WHERE ctid = ANY (ARRAY(
    (SELECT ctid FROM entities WHERE kind = 3 AND due_at IS NULL AND touched_at < $1::bigint LIMIT $2::bigint)
    UNION ALL
    (
        SELECT ctid FROM entities
        WHERE kind = 8 AND position('\x22616374697665223a66616c7365'::bytea IN body) > 0 AND touched_at < $1::bigint
        LIMIT $2::bigint
    )
))

-- name: clear_entities
DELETE FROM entities WHERE tenant = $1::integer

-- name: clear_usage
DELETE FROM usage WHERE tenant = $1::integer

-- name: clear_watermark
DELETE FROM watermarks WHERE tenant = $1::integer
