-- What a node loads and then folds into, each time with the watermark that it is as of, of the same snapshot.
-- Kinds are positions in core.state.KINDS: 0 account, 1 budget, 2 cell.

-- name: load
SELECT mark.seq, entities.body FROM (SELECT $1::integer AS tenant) AS wanted
LEFT JOIN watermarks AS mark ON mark.tenant = wanted.tenant
LEFT JOIN entities ON entities.tenant = wanted.tenant AND entities.kind = $2::integer
AND entities.number = $3::bigint AND entities.id = $4::text

-- name: load_ids
SELECT mark.seq, entities.id, entities.body FROM (SELECT $1::integer AS tenant) AS wanted
LEFT JOIN watermarks AS mark ON mark.tenant = wanted.tenant
LEFT JOIN entities ON entities.tenant = wanted.tenant AND entities.kind = $2::integer
AND entities.number = 9223372036854775807 AND entities.id = ANY ($3::text[])

-- name: load_numbers
SELECT mark.seq, entities.number, entities.body FROM (SELECT $1::integer AS tenant) AS wanted
LEFT JOIN watermarks AS mark ON mark.tenant = wanted.tenant
LEFT JOIN entities ON entities.tenant = wanted.tenant AND entities.kind = $2::integer
AND entities.number = ANY ($3::bigint[]) AND entities.id = ''

-- name: load_name
SELECT mark.seq, entities.number FROM (SELECT $1::integer AS tenant) AS wanted
LEFT JOIN watermarks AS mark ON mark.tenant = wanted.tenant
LEFT JOIN entities ON entities.tenant = wanted.tenant AND entities.name = $2::text

-- name: load_chains
WITH RECURSIVE chain (number, body, owner) AS (
    SELECT number, body, owner FROM entities WHERE tenant = $1::integer AND name = ANY ($2::text[])
    UNION
    SELECT entities.number, entities.body, entities.owner FROM chain JOIN entities
    ON entities.tenant = $1::integer AND entities.kind = 0 AND entities.number = chain.owner AND entities.id = ''
), budget (number, body) AS (
    SELECT entities.number, entities.body FROM chain
    CROSS JOIN LATERAL json_array_elements_text(convert_from(chain.body, 'UTF8')::json -> 'budgets') AS one (number)
    JOIN entities ON entities.tenant = $1::integer AND entities.kind = 1
    AND entities.number = one.number::bigint AND entities.id = ''
), found (kind, number, body) AS (
    SELECT 0, number, body FROM chain
    UNION ALL
    SELECT 1, number, body FROM budget
    UNION ALL
    SELECT 2, entities.number, entities.body FROM budget JOIN entities
    ON entities.tenant = $1::integer AND entities.kind = 2 AND entities.id = ''
    AND entities.number = (convert_from(budget.body, 'UTF8')::json ->> 'cell')::bigint
)
SELECT mark.seq, found.kind, found.number, found.body FROM (SELECT $1::integer AS tenant) AS wanted
LEFT JOIN watermarks AS mark ON mark.tenant = wanted.tenant
LEFT JOIN found ON true

-- name: carved_look
-- Whether an account has children, and how many accounts have an allocation, counted no further than a bound.
SELECT
    (SELECT seq FROM watermarks WHERE tenant = $1::integer),
    EXISTS (SELECT 1 FROM entities WHERE tenant = $1::integer AND kind = 0 AND owner = $2::bigint),
    (SELECT count(*) FROM (SELECT 1 FROM entities WHERE tenant = $1::integer AND carved LIMIT $3::bigint) AS few)

-- name: carved_upward
-- From each account with an allocation: for few of them below an account that may have very many others below it.
WITH RECURSIVE up (number, above) AS (
    SELECT number, owner FROM entities WHERE tenant = $1::integer AND carved
    UNION ALL
    SELECT up.number, entities.owner FROM up JOIN entities
    ON entities.tenant = $1::integer AND entities.kind = 0 AND entities.number = up.above AND entities.id = ''
    WHERE up.above <> $2::bigint
)
SELECT mark.seq, up.number FROM (SELECT $1::integer AS tenant) AS wanted
LEFT JOIN watermarks AS mark ON mark.tenant = wanted.tenant
LEFT JOIN up ON up.above = $2::bigint

-- name: carved_downward
WITH RECURSIVE below (number) AS (
    SELECT $2::bigint
    UNION ALL
    SELECT entities.number FROM entities JOIN below ON entities.owner = below.number
    WHERE entities.tenant = $1::integer AND entities.kind = 0
), carved AS (
    SELECT entities.number FROM below JOIN entities
    ON entities.tenant = $1::integer AND entities.kind = 0 AND entities.number = below.number AND entities.id = ''
    WHERE entities.carved AND entities.number <> $2::bigint
)
SELECT mark.seq, carved.number FROM (SELECT $1::integer AS tenant) AS wanted
LEFT JOIN watermarks AS mark ON mark.tenant = wanted.tenant
LEFT JOIN carved ON true
