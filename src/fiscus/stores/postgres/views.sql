-- Everything here follows the journal and can be dropped: it is made again from it. Kinds are positions in
-- core.state.KINDS: 0 account, 2 cell, 3 hold.

-- name: watermark
SELECT seq, hash, at, accounts, budgets, cells FROM watermarks WHERE tenant = $1::integer

-- name: deadlines
SELECT due_at, due_rank, -due_depth, kind, number, id FROM entities WHERE tenant = $1::integer AND due_at IS NOT NULL

-- name: all_of
SELECT id, body FROM entities WHERE tenant = $1::integer AND kind = $2::smallint

-- name: scan
SELECT kind, number, id, body FROM entities WHERE tenant = $1::integer ORDER BY kind, number, id

-- name: accounts
WITH RECURSIVE below (number) AS (
    SELECT $6::bigint WHERE $6::bigint IS NOT NULL
    UNION ALL
    SELECT entities.number FROM entities JOIN below ON entities.owner = below.number
    WHERE entities.tenant = $1::integer AND entities.kind = 0
)
SELECT body FROM entities
WHERE tenant = $1::integer AND kind = 0 AND number > $2::bigint
AND ($4::text IS NULL OR starts_with(name, $4::text))
AND ($5::bigint IS NULL OR owner = $5::bigint)
AND ($6::bigint IS NULL OR number IN (SELECT number FROM below))
ORDER BY number LIMIT $3::bigint

-- name: overrides
WITH RECURSIVE below (number) AS (
    SELECT $5::bigint WHERE $5::bigint IS NOT NULL
    UNION ALL
    SELECT entities.number FROM entities JOIN below ON entities.owner = below.number
    WHERE entities.tenant = $1::integer AND entities.kind = 0
)
SELECT body FROM entities
WHERE tenant = $1::integer AND kind = $2::smallint AND number = 9223372036854775807 AND id > $3::text
AND ($5::bigint IS NULL OR owner IN (SELECT number FROM below))
AND (NOT $6::boolean OR due_at IS NOT NULL)
ORDER BY id LIMIT $4::bigint

-- name: usage
WITH RECURSIVE below (number) AS (
    SELECT $4::bigint WHERE $4::bigint IS NOT NULL
    UNION ALL
    SELECT entities.number FROM entities JOIN below ON entities.owner = below.number
    WHERE entities.tenant = $1::integer AND entities.kind = 0
)
SELECT seq, at, hold, account, also, amounts, uncovered, estimated, model, provider, record FROM usage
WHERE tenant = $1::integer AND seq > $2::bigint
AND ($4::bigint IS NULL OR account IN (SELECT number FROM below))
AND ($5::bigint IS NULL OR at >= $5::bigint) AND ($6::bigint IS NULL OR at < $6::bigint)
ORDER BY seq LIMIT $3::bigint

-- name: idle_accounts
-- Accounts that a template opened, without calls in flight, whose windows and holds nothing has touched since.
SELECT account.number FROM entities AS account
WHERE account.tenant = $1::integer AND account.kind = 0 AND account.live AND account.touched_at < $3::bigint
AND account.template = $2::text AND account.template IS NOT NULL
AND NOT EXISTS (
    SELECT 1 FROM entities AS used
    WHERE used.tenant = $1::integer AND used.kind IN (2, 3) AND used.owner = account.number
    AND (used.touched_at >= $3::bigint OR used.kind = 3 AND used.due_at IS NOT NULL)
)
LIMIT $4::bigint
