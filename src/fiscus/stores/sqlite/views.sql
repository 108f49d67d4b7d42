-- Everything here follows the journal and can be dropped: it is made again from it.

-- name: schema
CREATE TABLE IF NOT EXISTS watermarks (
    tenant INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,
    hash BLOB NOT NULL,
    at INTEGER NOT NULL,
    accounts INTEGER NOT NULL,
    budgets INTEGER NOT NULL,
    cells INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS entities (
    tenant INTEGER NOT NULL,
    kind INTEGER NOT NULL,    -- position in core.state.KINDS
    key ANY NOT NULL,         -- number or id
    body BLOB NOT NULL,       -- the entity, JSON
    name TEXT,                -- of an account
    owner INTEGER,            -- parent of an account; account of a cell or hold
    carved INTEGER,           -- 1: an account with an allocation
    live INTEGER,             -- 1: an account that is neither terminated nor closed
    due_at INTEGER,           -- ms; when something is due
    due_rank INTEGER,
    due_depth INTEGER,
    touched_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, kind, key)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS entities_name ON entities (tenant, name) WHERE name IS NOT NULL;
CREATE INDEX IF NOT EXISTS entities_owner ON entities (tenant, kind, owner) WHERE owner IS NOT NULL;
CREATE INDEX IF NOT EXISTS entities_carved ON entities (tenant, key) WHERE carved IS NOT NULL;
CREATE INDEX IF NOT EXISTS entities_due ON entities (tenant, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS entities_template
ON entities (tenant, CAST(body AS TEXT) ->> '$.template', touched_at) WHERE live = 1;
-- Holds that nothing is due for any more, to be pruned.
CREATE INDEX IF NOT EXISTS entities_ended ON entities (touched_at) WHERE kind = 3 AND due_at IS NULL;
-- Loans that have ended ('"active":false' stands in the body), likewise.
CREATE INDEX IF NOT EXISTS entities_ended_loans ON entities (touched_at)
WHERE kind = 8 AND instr(body, x'22616374697665223a66616c7365') > 0;
CREATE TABLE IF NOT EXISTS usage (
    tenant INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    hold TEXT NOT NULL,
    account INTEGER NOT NULL,
    also BLOB NOT NULL,       -- account numbers, JSON
    amounts BLOB NOT NULL,    -- what this reading added, JSON
    uncovered BLOB NOT NULL,
    estimated INTEGER NOT NULL,
    model TEXT,
    provider TEXT,
    record BLOB,              -- the call's record, JSON
    PRIMARY KEY (tenant, seq)
) STRICT, WITHOUT ROWID;
-- Usage that says where it came from ('"provenance":', '"parent_request_id":', '"workflow_id":' stand in its record).
CREATE INDEX IF NOT EXISTS usage_request
ON usage (tenant, coalesce(CAST(record AS TEXT) ->> '$.provenance.request_id', hold))
WHERE instr(record, x'2270726f76656e616e6365223a') > 0;
CREATE INDEX IF NOT EXISTS usage_parent ON usage (tenant, CAST(record AS TEXT) ->> '$.provenance.parent_request_id')
WHERE instr(record, x'22706172656e745f726571756573745f6964223a') > 0;
CREATE INDEX IF NOT EXISTS usage_workflow ON usage (tenant, CAST(record AS TEXT) ->> '$.provenance.workflow_id')
WHERE instr(record, x'22776f726b666c6f775f6964223a') > 0;

-- name: watermark
SELECT seq, hash, at, accounts, budgets, cells FROM watermarks WHERE tenant = ?;

-- name: set_watermark
INSERT OR REPLACE INTO watermarks (tenant, seq, hash, at, accounts, budgets, cells) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: load
SELECT body FROM entities WHERE tenant = ? AND kind = ? AND key = ?;

-- name: load_many
SELECT key, body FROM entities WHERE tenant = ? AND kind = ? AND key IN (SELECT value FROM json_each(?));

-- name: load_name
SELECT key FROM entities WHERE tenant = ? AND name = ?;

-- name: load_chains
-- Kinds are positions in core.state.KINDS: 0 account, 1 budget, 2 cell. Said step by step, since SQLite knows nothing of
-- how many rows there are; and without the affinity of a column (+), or the key, which is of any type, is not searched.
WITH RECURSIVE chain (number, body, owner) AS (
    SELECT entities.key, entities.body, entities.owner FROM json_each(?2) AS wanted
    CROSS JOIN entities INDEXED BY entities_name ON entities.tenant = ?1 AND entities.name = wanted.value
    UNION
    SELECT entities.key, entities.body, entities.owner FROM chain
    CROSS JOIN entities ON entities.tenant = ?1 AND entities.kind = 0 AND entities.key = +chain.owner
), budget (number, body) AS (
    SELECT entities.key, entities.body FROM chain
    CROSS JOIN json_each(CAST(chain.body AS TEXT), '$.budgets') AS one
    CROSS JOIN entities ON entities.tenant = ?1 AND entities.kind = 1 AND entities.key = one.value
)
SELECT 0, number, body FROM chain
UNION ALL
SELECT 1, number, body FROM budget
UNION ALL
SELECT 2, entities.key, entities.body FROM budget
CROSS JOIN entities ON entities.tenant = ?1 AND entities.kind = 2 AND entities.key = CAST(budget.body AS TEXT) ->> '$.cell';

-- name: has_children
SELECT EXISTS (SELECT 1 FROM entities WHERE tenant = ? AND kind = 0 AND owner = ?);

-- name: carved_at_most
-- How many accounts have an allocation, counted no further than a bound.
SELECT count(*) FROM (
    SELECT 1 FROM entities INDEXED BY entities_carved WHERE tenant = ?1 AND carved IS NOT NULL LIMIT ?2
);

-- name: carved_upward
-- Up from each account with an allocation: for few of them below an account that may have very many others below it.
WITH RECURSIVE up (number, above) AS (
    SELECT key, owner FROM entities INDEXED BY entities_carved WHERE tenant = ?1 AND carved IS NOT NULL
    UNION ALL
    SELECT up.number, entities.owner FROM up
    CROSS JOIN entities ON entities.tenant = ?1 AND entities.kind = 0 AND entities.key = +up.above
    WHERE up.above <> ?2
)
SELECT number FROM up WHERE above = ?2;

-- name: carved_downward
WITH RECURSIVE below (number) AS (
    SELECT ?2
    UNION ALL
    SELECT entities.key FROM entities JOIN below ON entities.owner = below.number
    WHERE entities.tenant = ?1 AND entities.kind = 0
)
SELECT entities.key FROM below JOIN entities
ON entities.tenant = ?1 AND entities.kind = 0 AND entities.key = below.number
WHERE entities.carved = 1 AND entities.key <> ?2;

-- name: deadlines
SELECT due_at, due_rank, -due_depth, kind, key FROM entities INDEXED BY entities_due
WHERE tenant = ? AND due_at IS NOT NULL;

-- name: all_of
SELECT key, body FROM entities WHERE tenant = ? AND kind = ?;

-- name: scan
SELECT kind, key, body FROM entities WHERE tenant = ? ORDER BY kind, key;

-- name: accounts
WITH RECURSIVE below (number) AS (
    SELECT ?6 WHERE ?6 IS NOT NULL
    UNION ALL
    SELECT entities.key FROM entities JOIN below ON entities.owner = below.number
    WHERE entities.tenant = ?1 AND entities.kind = 0
)
SELECT body FROM entities
WHERE tenant = ?1 AND kind = 0 AND key > ?2
AND (?4 IS NULL OR substr(name, 1, length(?4)) = ?4)
AND (?5 IS NULL OR owner = ?5)
AND (?6 IS NULL OR key IN (SELECT number FROM below))
ORDER BY key LIMIT ?3;

-- name: overrides
WITH RECURSIVE below (number) AS (
    SELECT ?5 WHERE ?5 IS NOT NULL
    UNION ALL
    SELECT entities.key FROM entities JOIN below ON entities.owner = below.number
    WHERE entities.tenant = ?1 AND entities.kind = 0
)
SELECT body FROM entities
WHERE tenant = ?1 AND kind = ?2 AND key > ?3
AND (?5 IS NULL OR owner IN (SELECT number FROM below))
AND (NOT ?6 OR due_at IS NOT NULL)
ORDER BY key LIMIT ?4;

-- name: usage
WITH RECURSIVE below (number) AS (
    SELECT ?4 WHERE ?4 IS NOT NULL
    UNION ALL
    SELECT entities.key FROM entities JOIN below ON entities.owner = below.number
    WHERE entities.tenant = ?1 AND entities.kind = 0
)
SELECT seq, at, hold, account, also, amounts, uncovered, estimated, model, provider, record FROM usage
WHERE tenant = ?1 AND seq > ?2
AND (?4 IS NULL OR account IN (SELECT number FROM below))
AND (?5 IS NULL OR at >= ?5) AND (?6 IS NULL OR at < ?6)
ORDER BY seq LIMIT ?3;

-- name: usage_sums
-- What is read from JSON is read once: a part with LIMIT is worked out by itself. Values beyond 26 bits are summed in two
-- parts, since a sum may be longer than 64 bits.
WITH RECURSIVE below (number) AS (
    SELECT ?2 WHERE ?2 IS NOT NULL
    UNION ALL
    SELECT entities.key FROM entities JOIN below ON entities.owner = below.number
    WHERE entities.tenant = ?1 AND entities.kind = 0
)
SELECT key1, key2, key3, key4, key5, key6, key7, key8, key9, key10,
    coalesce(sum(calls >> 26), 0), coalesce(sum(calls & 67108863), 0),
    coalesce(sum(tokens >> 26), 0), coalesce(sum(tokens & 67108863), 0),
    coalesce(sum(input_tokens >> 26), 0), coalesce(sum(input_tokens & 67108863), 0),
    coalesce(sum(output_tokens >> 26), 0), coalesce(sum(output_tokens & 67108863), 0),
    coalesce(sum(cost >> 26), 0), coalesce(sum(cost & 67108863), 0),
    coalesce(sum(CASE WHEN cost IS NULL THEN calls END), 0), coalesce(sum(CASE WHEN estimated THEN 1 END), 0)
FROM (
    SELECT
        CASE ?11 WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN CAST(account AS TEXT) WHEN 'also' THEN CAST(also AS TEXT)
        WHEN 'day' THEN CAST(at / 86400000 AS TEXT) WHEN 'hour' THEN CAST(at / 3600000 AS TEXT)
        ELSE CAST(record AS TEXT) ->> ('$.' || ?11) END AS key1,
        CASE ?12 WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN CAST(account AS TEXT) WHEN 'also' THEN CAST(also AS TEXT)
        WHEN 'day' THEN CAST(at / 86400000 AS TEXT) WHEN 'hour' THEN CAST(at / 3600000 AS TEXT)
        ELSE CAST(record AS TEXT) ->> ('$.' || ?12) END AS key2,
        CASE ?13 WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN CAST(account AS TEXT) WHEN 'also' THEN CAST(also AS TEXT)
        WHEN 'day' THEN CAST(at / 86400000 AS TEXT) WHEN 'hour' THEN CAST(at / 3600000 AS TEXT)
        ELSE CAST(record AS TEXT) ->> ('$.' || ?13) END AS key3,
        CASE ?14 WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN CAST(account AS TEXT) WHEN 'also' THEN CAST(also AS TEXT)
        WHEN 'day' THEN CAST(at / 86400000 AS TEXT) WHEN 'hour' THEN CAST(at / 3600000 AS TEXT)
        ELSE CAST(record AS TEXT) ->> ('$.' || ?14) END AS key4,
        CASE ?15 WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN CAST(account AS TEXT) WHEN 'also' THEN CAST(also AS TEXT)
        WHEN 'day' THEN CAST(at / 86400000 AS TEXT) WHEN 'hour' THEN CAST(at / 3600000 AS TEXT)
        ELSE CAST(record AS TEXT) ->> ('$.' || ?15) END AS key5,
        CASE ?16 WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN CAST(account AS TEXT) WHEN 'also' THEN CAST(also AS TEXT)
        WHEN 'day' THEN CAST(at / 86400000 AS TEXT) WHEN 'hour' THEN CAST(at / 3600000 AS TEXT)
        ELSE CAST(record AS TEXT) ->> ('$.' || ?16) END AS key6,
        CASE ?17 WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN CAST(account AS TEXT) WHEN 'also' THEN CAST(also AS TEXT)
        WHEN 'day' THEN CAST(at / 86400000 AS TEXT) WHEN 'hour' THEN CAST(at / 3600000 AS TEXT)
        ELSE CAST(record AS TEXT) ->> ('$.' || ?17) END AS key7,
        CASE ?18 WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN CAST(account AS TEXT) WHEN 'also' THEN CAST(also AS TEXT)
        WHEN 'day' THEN CAST(at / 86400000 AS TEXT) WHEN 'hour' THEN CAST(at / 3600000 AS TEXT)
        ELSE CAST(record AS TEXT) ->> ('$.' || ?18) END AS key8,
        CASE ?19 WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN CAST(account AS TEXT) WHEN 'also' THEN CAST(also AS TEXT)
        WHEN 'day' THEN CAST(at / 86400000 AS TEXT) WHEN 'hour' THEN CAST(at / 3600000 AS TEXT)
        ELSE CAST(record AS TEXT) ->> ('$.' || ?19) END AS key9,
        CASE ?20 WHEN '' THEN NULL WHEN 'provider' THEN provider WHEN 'model' THEN model
        WHEN 'account' THEN CAST(account AS TEXT) WHEN 'also' THEN CAST(also AS TEXT)
        WHEN 'day' THEN CAST(at / 86400000 AS TEXT) WHEN 'hour' THEN CAST(at / 3600000 AS TEXT)
        ELSE CAST(record AS TEXT) ->> ('$.' || ?20) END AS key10,
        CAST(amounts AS TEXT) ->> '$.calls' AS calls, CAST(amounts AS TEXT) ->> '$.tokens' AS tokens,
        CAST(amounts AS TEXT) ->> '$.input_tokens' AS input_tokens,
        CAST(amounts AS TEXT) ->> '$.output_tokens' AS output_tokens,
        CAST(amounts AS TEXT) ->> '$.cost' AS cost, estimated
    FROM usage
    WHERE tenant = ?1 AND seq <= ?21
    AND (?2 IS NULL OR account IN (SELECT number FROM below))
    AND (?3 IS NULL OR at >= ?3) AND (?4 IS NULL OR at < ?4)
    AND (?5 IS NULL OR provider = ?5) AND (?6 IS NULL OR model = ?6)
    AND (?7 IS NULL OR CAST(record AS TEXT) ->> '$.provenance.task_type' = ?7)
    AND (?8 IS NULL OR CAST(record AS TEXT) ->> '$.provenance.workflow_id' = ?8)
    LIMIT -1
)
GROUP BY key1, key2, key3, key4, key5, key6, key7, key8, key9, key10
HAVING coalesce(sum(calls), 0) >= ?9
ORDER BY key1, key2, key3, key4, key5, key6, key7, key8, key9, key10 LIMIT ?10;

-- name: usage_of_request_id
WITH RECURSIVE below (number) AS (
    SELECT ?3 WHERE ?3 IS NOT NULL
    UNION ALL
    SELECT entities.key FROM entities JOIN below ON entities.owner = below.number
    WHERE entities.tenant = ?1 AND entities.kind = 0
)
SELECT seq, at, hold, account, also, amounts, uncovered, estimated, model, provider, record
FROM (SELECT DISTINCT value FROM json_each(?2)) AS wanted CROSS JOIN usage INDEXED BY usage_request
ON tenant = ?1 AND instr(record, x'2270726f76656e616e6365223a') > 0
AND coalesce(CAST(record AS TEXT) ->> '$.provenance.request_id', hold) = wanted.value
WHERE seq <= ?4 AND (?3 IS NULL OR account IN (SELECT number FROM below))
ORDER BY seq LIMIT ?5;

-- name: usage_of_parent_request_id
WITH RECURSIVE below (number) AS (
    SELECT ?3 WHERE ?3 IS NOT NULL
    UNION ALL
    SELECT entities.key FROM entities JOIN below ON entities.owner = below.number
    WHERE entities.tenant = ?1 AND entities.kind = 0
)
SELECT seq, at, hold, account, also, amounts, uncovered, estimated, model, provider, record
FROM (SELECT DISTINCT value FROM json_each(?2)) AS wanted CROSS JOIN usage INDEXED BY usage_parent
ON tenant = ?1 AND instr(record, x'22706172656e745f726571756573745f6964223a') > 0
AND CAST(record AS TEXT) ->> '$.provenance.parent_request_id' = wanted.value
WHERE seq <= ?4 AND (?3 IS NULL OR account IN (SELECT number FROM below))
ORDER BY seq LIMIT ?5;

-- name: usage_of_workflow_id
WITH RECURSIVE below (number) AS (
    SELECT ?3 WHERE ?3 IS NOT NULL
    UNION ALL
    SELECT entities.key FROM entities JOIN below ON entities.owner = below.number
    WHERE entities.tenant = ?1 AND entities.kind = 0
)
SELECT seq, at, hold, account, also, amounts, uncovered, estimated, model, provider, record
FROM (SELECT DISTINCT value FROM json_each(?2)) AS wanted CROSS JOIN usage INDEXED BY usage_workflow
ON tenant = ?1 AND instr(record, x'22776f726b666c6f775f6964223a') > 0
AND CAST(record AS TEXT) ->> '$.provenance.workflow_id' = wanted.value
WHERE seq <= ?4 AND (?3 IS NULL OR account IN (SELECT number FROM below))
ORDER BY seq LIMIT ?5;

-- name: idle_accounts
-- Accounts that a template opened, without calls in flight, whose windows and holds nothing has touched since.
SELECT account.key FROM entities AS account INDEXED BY entities_template
WHERE account.tenant = ?1 AND account.live = 1 AND account.touched_at < ?3
AND CAST(account.body AS TEXT) ->> '$.template' = ?2
AND NOT EXISTS (
    SELECT 1 FROM entities AS used INDEXED BY entities_owner
    WHERE used.tenant = ?1 AND used.kind IN (2, 3) AND used.owner = account.key
    AND (used.touched_at >= ?3 OR used.kind = 3 AND used.due_at IS NOT NULL)
)
LIMIT ?4;

-- name: put_entity
INSERT OR REPLACE INTO entities
(tenant, touched_at, kind, key, body, owner, name, carved, live, due_at, due_rank, due_depth)
VALUES (?1, ?2, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: put_plain
-- An entity that is found by its key and its owner alone, as most are.
INSERT OR REPLACE INTO entities (tenant, touched_at, kind, key, body, owner) VALUES (?1, ?2, ?, ?, ?, ?);

-- name: put_usage
INSERT OR REPLACE INTO usage
(tenant, seq, at, hold, account, also, amounts, uncovered, estimated, model, provider, record)
VALUES (?1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: erase_usage
UPDATE usage SET record = NULL WHERE tenant = ? AND account = ? AND seq <= ?;

-- name: ended
-- Holds and loans that have ended and whose answers are not kept any more; their ids stay in the journal.
SELECT * FROM (
    SELECT tenant, kind, key FROM entities INDEXED BY entities_ended
    WHERE kind = 3 AND due_at IS NULL AND touched_at < ?1 LIMIT ?2
)
UNION ALL
SELECT * FROM (
    SELECT tenant, kind, key FROM entities INDEXED BY entities_ended_loans
    WHERE kind = 8 AND instr(body, x'22616374697665223a66616c7365') > 0 AND touched_at < ?1 LIMIT ?2
);

-- name: drop_ended
DELETE FROM entities WHERE tenant = ? AND kind = ? AND key = ?;

-- name: clear_entities
DELETE FROM entities WHERE tenant = ?;

-- name: clear_usage
DELETE FROM usage WHERE tenant = ?;

-- name: clear_watermark
DELETE FROM watermarks WHERE tenant = ?;
