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

-- name: usage_sums
-- What is read from JSON is read once: a part with OFFSET is worked out by itself. Records are read where a key or a filter
-- asks for one of their fields ($21). Values beyond 26 bits are summed in two parts, as in SQLite.
WITH RECURSIVE below (number) AS (
    SELECT $2::bigint WHERE $2::bigint IS NOT NULL
    UNION ALL
    SELECT entities.number FROM entities JOIN below ON entities.owner = below.number
    WHERE entities.tenant = $1::integer AND entities.kind = 0
)
SELECT key1, key2, key3, key4, key5, key6, key7, key8, key9, key10,
    coalesce(sum(calls >> 26), 0), coalesce(sum(calls & 67108863), 0),
    coalesce(sum(tokens >> 26), 0), coalesce(sum(tokens & 67108863), 0),
    coalesce(sum(input_tokens >> 26), 0), coalesce(sum(input_tokens & 67108863), 0),
    coalesce(sum(output_tokens >> 26), 0), coalesce(sum(output_tokens & 67108863), 0),
    coalesce(sum(cost >> 26), 0), coalesce(sum(cost & 67108863), 0),
    coalesce(sum(calls) FILTER (WHERE cost IS NULL), 0), count(*) FILTER (WHERE estimated)
FROM (
    SELECT
        CASE $11::text WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN account::text WHEN 'also' THEN convert_from(also, 'UTF8')
        WHEN 'day' THEN (at / 86400000)::text WHEN 'hour' THEN (at / 3600000)::text
        ELSE said.record #>> string_to_array($11::text, '.') END AS key1,
        CASE $12::text WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN account::text WHEN 'also' THEN convert_from(also, 'UTF8')
        WHEN 'day' THEN (at / 86400000)::text WHEN 'hour' THEN (at / 3600000)::text
        ELSE said.record #>> string_to_array($12::text, '.') END AS key2,
        CASE $13::text WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN account::text WHEN 'also' THEN convert_from(also, 'UTF8')
        WHEN 'day' THEN (at / 86400000)::text WHEN 'hour' THEN (at / 3600000)::text
        ELSE said.record #>> string_to_array($13::text, '.') END AS key3,
        CASE $14::text WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN account::text WHEN 'also' THEN convert_from(also, 'UTF8')
        WHEN 'day' THEN (at / 86400000)::text WHEN 'hour' THEN (at / 3600000)::text
        ELSE said.record #>> string_to_array($14::text, '.') END AS key4,
        CASE $15::text WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN account::text WHEN 'also' THEN convert_from(also, 'UTF8')
        WHEN 'day' THEN (at / 86400000)::text WHEN 'hour' THEN (at / 3600000)::text
        ELSE said.record #>> string_to_array($15::text, '.') END AS key5,
        CASE $16::text WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN account::text WHEN 'also' THEN convert_from(also, 'UTF8')
        WHEN 'day' THEN (at / 86400000)::text WHEN 'hour' THEN (at / 3600000)::text
        ELSE said.record #>> string_to_array($16::text, '.') END AS key6,
        CASE $17::text WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN account::text WHEN 'also' THEN convert_from(also, 'UTF8')
        WHEN 'day' THEN (at / 86400000)::text WHEN 'hour' THEN (at / 3600000)::text
        ELSE said.record #>> string_to_array($17::text, '.') END AS key7,
        CASE $18::text WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN account::text WHEN 'also' THEN convert_from(also, 'UTF8')
        WHEN 'day' THEN (at / 86400000)::text WHEN 'hour' THEN (at / 3600000)::text
        ELSE said.record #>> string_to_array($18::text, '.') END AS key8,
        CASE $19::text WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN account::text WHEN 'also' THEN convert_from(also, 'UTF8')
        WHEN 'day' THEN (at / 86400000)::text WHEN 'hour' THEN (at / 3600000)::text
        ELSE said.record #>> string_to_array($19::text, '.') END AS key9,
        CASE $20::text WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN account::text WHEN 'also' THEN convert_from(also, 'UTF8')
        WHEN 'day' THEN (at / 86400000)::text WHEN 'hour' THEN (at / 3600000)::text
        ELSE said.record #>> string_to_array($20::text, '.') END AS key10,
        (said.amounts ->> 'calls')::bigint AS calls, (said.amounts ->> 'tokens')::bigint AS tokens,
        (said.amounts ->> 'input_tokens')::bigint AS input_tokens,
        (said.amounts ->> 'output_tokens')::bigint AS output_tokens, (said.amounts ->> 'cost')::bigint AS cost, estimated
    FROM usage CROSS JOIN LATERAL (
        SELECT document(usage.amounts) AS amounts, document(CASE WHEN $21::boolean THEN usage.record END) AS record
        OFFSET 0
    ) AS said
    WHERE tenant = $1::integer AND seq <= $22::bigint
    AND ($2::bigint IS NULL OR account IN (SELECT number FROM below))
    AND ($3::bigint IS NULL OR at >= $3::bigint) AND ($4::bigint IS NULL OR at < $4::bigint)
    AND ($5::text IS NULL OR provider = $5::text) AND ($6::text IS NULL OR model = $6::text)
    AND ($7::text IS NULL OR said.record #>> '{provenance,task_type}' = $7::text)
    AND ($8::text IS NULL OR said.record #>> '{provenance,workflow_id}' = $8::text)
    OFFSET 0
) AS used
GROUP BY key1, key2, key3, key4, key5, key6, key7, key8, key9, key10
HAVING coalesce(sum(calls), 0) >= $9::bigint
ORDER BY key1 COLLATE "C" NULLS FIRST, key2 COLLATE "C" NULLS FIRST, key3 COLLATE "C" NULLS FIRST,
    key4 COLLATE "C" NULLS FIRST, key5 COLLATE "C" NULLS FIRST, key6 COLLATE "C" NULLS FIRST,
    key7 COLLATE "C" NULLS FIRST, key8 COLLATE "C" NULLS FIRST, key9 COLLATE "C" NULLS FIRST,
    key10 COLLATE "C" NULLS FIRST
LIMIT $10::bigint

-- name: usage_of_request_id
WITH RECURSIVE below (number) AS (
    SELECT $3::bigint WHERE $3::bigint IS NOT NULL
    UNION ALL
    SELECT entities.number FROM entities JOIN below ON entities.owner = below.number
    WHERE entities.tenant = $1::integer AND entities.kind = 0
)
SELECT seq, at, hold, account, also, amounts, uncovered, estimated, model, provider, record FROM usage
WHERE tenant = $1::integer AND seq <= $4::bigint AND position('\x2270726f76656e616e6365223a'::bytea IN record) > 0
AND coalesce(document(record) #>> '{provenance,request_id}', hold) = ANY ($2::text[])
AND ($3::bigint IS NULL OR account IN (SELECT number FROM below))
ORDER BY seq LIMIT $5::bigint

-- name: usage_of_parent_request_id
WITH RECURSIVE below (number) AS (
    SELECT $3::bigint WHERE $3::bigint IS NOT NULL
    UNION ALL
    SELECT entities.number FROM entities JOIN below ON entities.owner = below.number
    WHERE entities.tenant = $1::integer AND entities.kind = 0
)
SELECT seq, at, hold, account, also, amounts, uncovered, estimated, model, provider, record FROM usage
WHERE tenant = $1::integer AND seq <= $4::bigint AND position('\x22706172656e745f726571756573745f6964223a'::bytea IN record) > 0
AND document(record) #>> '{provenance,parent_request_id}' = ANY ($2::text[])
AND ($3::bigint IS NULL OR account IN (SELECT number FROM below))
ORDER BY seq LIMIT $5::bigint

-- name: usage_of_workflow_id
WITH RECURSIVE below (number) AS (
    SELECT $3::bigint WHERE $3::bigint IS NOT NULL
    UNION ALL
    SELECT entities.number FROM entities JOIN below ON entities.owner = below.number
    WHERE entities.tenant = $1::integer AND entities.kind = 0
)
SELECT seq, at, hold, account, also, amounts, uncovered, estimated, model, provider, record FROM usage
WHERE tenant = $1::integer AND seq <= $4::bigint AND position('\x22776f726b666c6f775f6964223a'::bytea IN record) > 0
AND document(record) #>> '{provenance,workflow_id}' = ANY ($2::text[])
AND ($3::bigint IS NULL OR account IN (SELECT number FROM below))
ORDER BY seq LIMIT $5::bigint

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
