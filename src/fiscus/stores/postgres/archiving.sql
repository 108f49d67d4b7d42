-- Dropping entries and usage that were archived.

-- name: has_entries
SELECT EXISTS (
    SELECT 1 FROM unnest($1::integer[], $2::bigint[]) AS given (tenant, upto)
    WHERE (SELECT min(seq) FROM journal WHERE journal.tenant = given.tenant) <= given.upto
)

-- name: has_usage
SELECT EXISTS (
    SELECT 1 FROM unnest($1::integer[], $2::bigint[]) AS given (tenant, upto)
    WHERE (SELECT min(seq) FROM usage WHERE usage.tenant = given.tenant) <= given.upto
)

-- name: drop_entries
SELECT drop_upto('journal', $1::integer[], $2::bigint[])

-- name: drop_usage
SELECT drop_upto('usage', $1::integer[], $2::bigint[])

-- name: drop_private
-- What stood beside entries that are gone, a bounded number.
WITH dropped AS (
    DELETE FROM private WHERE ctid = ANY (ARRAY(
        SELECT private.ctid FROM unnest($1::integer[], $2::bigint[]) AS given (tenant, upto)
        JOIN private ON private.tenant = given.tenant AND private.seq <= given.upto LIMIT $3
    )) RETURNING 1
)
SELECT count(*) FROM dropped

-- name: drop_batches
WITH dropped AS (
    DELETE FROM batches WHERE ctid = ANY (ARRAY(
        SELECT batches.ctid FROM unnest($1::integer[], $2::bigint[]) AS given (tenant, upto)
        JOIN batches ON batches.tenant = given.tenant AND batches.last_seq <= given.upto
        AND batches.first_seq <= given.upto LIMIT $3
    )) RETURNING 1
)
SELECT count(*) FROM dropped

-- name: put_ids
INSERT INTO ids (tenant, key, seq) SELECT $1::integer, key, 0 FROM unnest($2::text[]) AS given (key)
ON CONFLICT (tenant, key) DO NOTHING
