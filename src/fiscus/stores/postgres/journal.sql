-- The truth. Appended to, never rewritten; only the private parts beside it can be erased. No statement of a commit
-- changes a row that is there already.

-- name: begin
BEGIN ISOLATION LEVEL READ COMMITTED

-- name: commit
COMMIT

-- name: rollback
ROLLBACK

-- name: lock
-- Takes the lock of a tenant, until the transaction ends, and then looks at the clock.
SELECT CASE WHEN pg_advisory_xact_lock(1181315939, $1::integer)::text IS NOT NULL
THEN floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint END

-- name: tail
-- The entry that a node knows, and those after it. What came later is not older: months before `at` are not touched.
SELECT journal.seq, journal.at, journal.body, journal.hash, private.salt, private.body
FROM journal LEFT JOIN private ON private.tenant = journal.tenant AND private.seq = journal.seq
WHERE journal.tenant = $1::integer AND journal.seq >= $2::bigint AND journal.at >= $3::bigint
ORDER BY journal.seq LIMIT $4::bigint

-- name: has_batch
-- Whether a commit ended with this entry; known also when the month of the entry was archived.
SELECT count(*) FROM (
    SELECT last_seq, hash FROM batches WHERE tenant = $1::integer AND first_seq <= $2::bigint
    ORDER BY first_seq DESC LIMIT 1
) AS batch
WHERE last_seq = $2::bigint AND hash = $3::bytea

-- name: append
WITH entries AS (
    INSERT INTO journal (tenant, seq, at, body, hash)
    SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bytea[])
), taken AS (
    INSERT INTO ids (tenant, key, seq) SELECT * FROM unnest($6::integer[], $7::text[], $8::bigint[])
)
INSERT INTO batches (tenant, first_seq, last_seq, at, hash)
SELECT * FROM unnest($9::integer[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bytea[])

-- name: append_all
-- As above, with private parts and answers. One statement: what is sent in pieces could stop between two of them.
WITH entries AS (
    INSERT INTO journal (tenant, seq, at, body, hash)
    SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bytea[])
), taken AS (
    INSERT INTO ids (tenant, key, seq) SELECT * FROM unnest($6::integer[], $7::text[], $8::bigint[])
), sealed AS (
    INSERT INTO private (tenant, seq, account, salt, body)
    SELECT * FROM unnest($14::integer[], $15::bigint[], $16::bigint[], $17::bytea[], $18::bytea[])
), kept AS (
    INSERT INTO answers (tenant, key, at, answer)
    SELECT * FROM unnest($19::integer[], $20::text[], $21::bigint[], $22::bytea[])
)
INSERT INTO batches (tenant, first_seq, last_seq, at, hash)
SELECT * FROM unnest($9::integer[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bytea[])

-- name: erase
-- Also what names the account in sealed states: -1 is the private part of kind 0.
WITH sealed AS (
    DELETE FROM checkpoints WHERE tenant = $1::integer AND kind = -1 AND number = $2::bigint
)
DELETE FROM private WHERE tenant = $1::integer AND account = $2::bigint

-- name: erase_sealed_keys
-- What keys are called in sealed states: -7 is the private part of kind 6.
DELETE FROM checkpoints WHERE tenant = $1::integer AND kind = -7 AND id = ANY($2::text[])

-- name: erase_answers
-- Kept answers that name the account, by its name as JSON writes it.
UPDATE answers SET answer = NULL WHERE tenant = $1::integer AND position($2::bytea IN answer) > 0
