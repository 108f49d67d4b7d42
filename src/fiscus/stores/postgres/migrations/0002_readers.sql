-- What other programs read with SQL: views over what the follower writes, at most a second old. No data of their own.
-- Kinds are positions in core.state.KINDS: 0 account, 1 budget, 2 cell. Fields that have their default are not in a body.

-- name: checkpoints_private
-- Erasing an account looks here for what names it.
CREATE INDEX checkpoints_private ON fiscus.checkpoints (tenant, number) WHERE kind = -1;

-- name: usage_valued
-- Usage that says what it was worth: few rows outside of the token economy.
CREATE INDEX usage_valued ON fiscus.usage (tenant, account, at)
WHERE position('\x2276616c7565223a'::bytea IN record) > 0;

-- name: document
-- A body as JSON. PostgreSQL's type cannot hold the character 0, which becomes U+FFFD.
CREATE FUNCTION fiscus.document(body bytea) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT AS $function$
    SELECT CASE WHEN position('\x5c7530303030'::bytea IN body) = 0 THEN convert_from(body, 'UTF8')::jsonb
    ELSE regexp_replace(convert_from(body, 'UTF8'), '(?<!\\)((?:\\\\)*)\\u0000', '\1\\ufffd', 'g')::jsonb END
$function$;

-- name: instant
-- Milliseconds since the epoch as a time in UTC; NULL where it never comes.
CREATE FUNCTION fiscus.instant(ms bigint) RETURNS timestamp LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT AS $function$
    SELECT CASE WHEN ms < 32503680000000
    THEN timestamp 'epoch' + make_interval(secs => ms / 1000) + make_interval(secs => (ms % 1000) / 1000.0) END
$function$;

-- name: read_tenant
-- Whose data the views show: `default`, or what the session has set as fiscus.tenant.
-- Readers need no rights on the tables themselves.
CREATE FUNCTION fiscus.read_tenant() RETURNS integer LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog AS $function$
    SELECT number FROM fiscus.tenants
    WHERE name = coalesce(nullif(current_setting('fiscus.tenant', true), ''), 'default')
$function$;

-- name: read_accounts
CREATE VIEW fiscus.read_accounts AS
SELECT entities.tenant, entities.number, entities.owner AS parent, entities.touched_at,
    coalesce(entities.name, 'erased:' || entities.number) AS name,
    split_part(coalesce(entities.name, 'erased:'), ':', 1) AS type,
    CASE WHEN entities.name IS NULL THEN 'erased:' || entities.number
    WHEN position(':' IN entities.name) = 0 THEN entities.name
    ELSE substr(entities.name, position(':' IN entities.name) + 1) END AS id,
    coalesce(fiscus.document(entities.body) ->> 'status', 'active') AS status
FROM fiscus.entities WHERE entities.tenant = fiscus.read_tenant() AND entities.kind = 0;

-- name: read_cells
-- The balances of all windows: limit, spent, held, quarantined as the API shows them.
CREATE VIEW fiscus.read_cells AS
SELECT cells.tenant, cells.number, cells.owner AS account, (body ->> 'budget')::bigint AS budget, body ->> 'unit' AS unit,
    (body ->> 'start')::bigint AS start_ms, (body ->> 'end')::bigint AS end_ms, phase, cells.touched_at,
    CASE WHEN phase = 1 THEN amount.cover ELSE granted END AS granted,
    amount.covered + amount.uncovered AS spent, amount.held, amount.quarantined,
    CASE WHEN phase = 0 THEN granted ELSE amount.cover END
    - amount.covered - amount.held - amount.quarantined - amount.uncovered AS available,
    coalesce((body ->> 'fired')::integer, 0) AS fired, coalesce((body ->> 'raised')::bigint, 0) AS raised
FROM (
    SELECT entities.*, fiscus.document(entities.body) AS document FROM fiscus.entities
    WHERE entities.tenant = fiscus.read_tenant() AND entities.kind = 2
) AS cells (
    tenant, kind, number, id, raw, name, owner, template, carved, live, due_at, due_rank, due_depth, touched_at, body
)
CROSS JOIN LATERAL (
    SELECT coalesce((body ->> 'covered')::bigint, 0) AS covered, coalesce((body ->> 'held')::bigint, 0) AS held,
        coalesce((body ->> 'quarantined')::bigint, 0) AS quarantined,
        coalesce((body ->> 'uncovered')::bigint, 0) AS uncovered, coalesce((body ->> 'cover')::bigint, 0) AS cover
) AS amount
CROSS JOIN LATERAL (
    SELECT coalesce((body ->> 'phase')::integer, 0) AS phase,
        greatest(
            0, coalesce((body ->> 'base')::bigint, 0) + coalesce((body ->> 'carried')::bigint, 0)
            + coalesce((body ->> 'raised')::bigint, 0) - coalesce((body ->> 'lowered')::bigint, 0)
        ) + coalesce((body ->> 'lapsing')::bigint, 0) AS granted
) AS size;

-- name: read_usage
CREATE VIEW fiscus.read_usage AS
SELECT usage.tenant, usage.seq, usage.at, usage.hold, usage.account, usage.estimated, usage.model, usage.provider,
    fiscus.document(usage.also) AS also, fiscus.document(usage.amounts) AS amounts,
    fiscus.document(usage.record) AS record
FROM fiscus.usage WHERE usage.tenant = fiscus.read_tenant();

-- name: agent_evolution
CREATE SCHEMA IF NOT EXISTS agent_evolution;

-- name: token_allocations
-- One row for each allocation of tokens that an agent has got; of one that runs, the figures of its status.
CREATE VIEW agent_evolution.token_allocations AS
SELECT cell.number AS id, agent.id AS agent_id, cell.granted::double precision AS allocated_tokens,
    cell.spent::double precision AS consumed_tokens, coalesce(made.value, 0) AS value_generated,
    CASE WHEN cell.spent > 0 THEN coalesce(made.value, 0) / cell.spent ELSE 0 END AS efficiency,
    fiscus.instant(cell.start_ms) AS allocation_time, fiscus.instant(cell.touched_at) AS last_update,
    cell.phase = 0 AND agent.status = 'active' AND cell.end_ms > extract(epoch FROM now()) * 1000 AS is_active,
    CASE WHEN agent.status = 'terminated' THEN coalesce(ending.reason, 'terminated') END AS termination_reason
FROM fiscus.read_cells AS cell
JOIN fiscus.read_accounts AS agent ON agent.tenant = cell.tenant AND agent.number = cell.account
JOIN fiscus.entities AS budget ON budget.tenant = cell.tenant AND budget.kind = 1
AND budget.number = cell.budget AND budget.id = ''
LEFT JOIN LATERAL (
    SELECT min(later.start_ms) AS start_ms FROM fiscus.read_cells AS later
    WHERE later.account = cell.account AND later.budget = cell.budget AND later.number > cell.number
) AS next ON true
LEFT JOIN LATERAL (
    SELECT sum(reading.value) AS value FROM (
        SELECT DISTINCT ON (usage.hold) (fiscus.document(usage.record) ->> 'value')::double precision AS value
        FROM fiscus.usage
        WHERE usage.tenant = cell.tenant AND usage.account = cell.account AND usage.at >= cell.start_ms
        AND (next.start_ms IS NULL OR usage.at < next.start_ms)
        AND position('\x2276616c7565223a'::bytea IN usage.record) > 0
        AND fiscus.document(usage.record) ->> 'value' IS NOT NULL
        ORDER BY usage.hold, usage.seq DESC
    ) AS reading
) AS made ON true
LEFT JOIN LATERAL (
    SELECT fiscus.document(private.body) ->> 'reason' AS reason
    FROM fiscus.private JOIN fiscus.journal ON journal.tenant = private.tenant AND journal.seq = private.seq
    WHERE agent.status = 'terminated' AND private.tenant = cell.tenant AND private.account = cell.account
    AND position('\x22726561736f6e223a'::bytea IN private.body) > 0
    AND fiscus.document(journal.body) @> '{"kind": "status_changed", "status": "terminated"}'
    ORDER BY private.seq DESC LIMIT 1
) AS ending ON true
WHERE agent.name LIKE 'agent:%' AND cell.unit = 'tokens' AND fiscus.document(budget.body) @> '{"allocated": true}';

-- name: token_tracking
CREATE SCHEMA IF NOT EXISTS token_tracking;

-- name: token_usages
-- One row for each reading of a call that was booked; amounts are what it added, so that sums are right.
CREATE VIEW token_tracking.token_usages AS
SELECT usage.seq AS id, fiscus.instant(usage.at) AS timestamp, usage.provider, usage.model,
    coalesce((usage.amounts ->> 'input_tokens')::bigint, (usage.record #>> '{tokens,input}')::bigint) AS prompt_tokens,
    coalesce(
        (usage.amounts ->> 'output_tokens')::bigint, (usage.record #>> '{tokens,output}')::bigint
    ) AS completion_tokens,
    coalesce(
        (usage.amounts ->> 'tokens')::bigint,
        coalesce((usage.record #>> '{tokens,input}')::bigint, 0)
        + coalesce((usage.record #>> '{tokens,output}')::bigint, 0)
    ) AS total_tokens,
    coalesce((usage.amounts ->> 'cost')::numeric, (usage.record ->> 'cost_nanousd')::numeric) / 1000000000 AS cost,
    'USD' AS currency,
    coalesce(usage.record ->> 'user_id', charged.user_id) AS user_id,
    coalesce(usage.record ->> 'project_id', charged.project_id) AS project_id,
    coalesce(usage.record ->> 'team_id', charged.team_id) AS team_id,
    coalesce(usage.record ->> 'feature', charged.feature) AS feature,
    coalesce(usage.record #>> '{provenance,request_id}', usage.hold) AS request_id,
    coalesce(usage.record -> 'metadata', '{}') AS metadata,
    payer.name AS account, usage.hold, usage.estimated
FROM fiscus.read_usage AS usage
LEFT JOIN fiscus.read_accounts AS payer ON payer.tenant = usage.tenant AND payer.number = usage.account
LEFT JOIN LATERAL (
    SELECT max(one.id) FILTER (WHERE one.type = 'user') AS user_id,
        max(one.id) FILTER (WHERE one.type = 'project') AS project_id,
        max(one.id) FILTER (WHERE one.type = 'team') AS team_id,
        max(one.id) FILTER (WHERE one.type = 'feature') AS feature
    FROM fiscus.read_accounts AS one
    WHERE one.tenant = usage.tenant AND (
        one.number = usage.account
        OR one.number IN (SELECT number::bigint FROM jsonb_array_elements_text(usage.also) AS charged (number))
    )
) AS charged ON true;

-- name: token_budgets
-- One row for each budget with the window that it has open; amounts in USD where the unit is `cost`.
CREATE VIEW token_tracking.token_budgets AS
SELECT budget.number AS id, budget.body ->> 'name' AS name, account.type,
    CASE WHEN account.name = 'global' THEN NULL ELSE account.id END AS entity_id,
    CASE budget.body ->> 'period'
        WHEN 'hour' THEN 'hourly' WHEN 'day' THEN 'daily' WHEN 'week' THEN 'weekly' WHEN 'month' THEN 'monthly'
        WHEN 'quarter' THEN 'quarterly' WHEN 'year' THEN 'yearly' WHEN 'lifetime' THEN 'fixed'
        ELSE budget.body ->> 'period'
    END AS period,
    fiscus.instant(cell.start_ms) AS period_start, fiscus.instant(cell.end_ms) AS period_end,
    budget.body ->> 'unit' AS unit, CASE WHEN budget.body ->> 'unit' = 'cost' THEN 'USD' END AS currency,
    coalesce(cell.granted, (budget.body ->> 'limit')::bigint, 0) / scale.units AS "limit",
    coalesce(cell.spent, 0) / scale.units AS spent,
    coalesce(cell.available, (budget.body ->> 'limit')::bigint, 0) / scale.units AS remaining,
    coalesce(cell.held, 0) / scale.units AS held, coalesce(cell.quarantined, 0) / scale.units AS quarantined,
    CASE WHEN cell.granted > 0 THEN round(100.0 * cell.spent / cell.granted, 2) ELSE 0 END AS utilization_percentage,
    coalesce(cell.spent > cell.granted, false) AS is_over_limit,
    coalesce(cell.end_ms <= extract(epoch FROM now()) * 1000, false) AS needs_reset,
    ARRAY(
        SELECT percent::integer FROM jsonb_object_keys(coalesce(budget.body -> 'thresholds', '{}')) AS one (percent)
        ORDER BY percent::integer
    ) AS alert_thresholds,
    ARRAY(
        SELECT percent::integer FROM jsonb_object_keys(coalesce(budget.body -> 'thresholds', '{}')) AS one (percent)
        WHERE percent::integer <= cell.fired ORDER BY percent::integer
    ) AS alerts_sent,
    coalesce(budget.body ->> 'mode', 'enforce') AS mode, coalesce(cell.raised > 0, false) AS override_active,
    account.status = 'active' AS active, fiscus.instant(greatest(budget.touched_at, cell.touched_at)) AS updated_at,
    coalesce(budget.body -> 'match', '{}') AS metadata, account.name AS account
FROM (
    SELECT entities.tenant, entities.number, entities.touched_at, fiscus.document(entities.body) AS body
    FROM fiscus.entities WHERE entities.tenant = fiscus.read_tenant() AND entities.kind = 1
) AS budget
JOIN fiscus.read_accounts AS account
ON account.tenant = budget.tenant AND account.number = (budget.body ->> 'account')::bigint
LEFT JOIN fiscus.read_cells AS cell ON cell.tenant = budget.tenant AND cell.number = (budget.body ->> 'cell')::bigint
CROSS JOIN LATERAL (
    SELECT CASE WHEN budget.body ->> 'unit' = 'cost' THEN 1000000000 ELSE 1 END::numeric AS units
) AS scale
WHERE coalesce(budget.body ->> 'removed', 'false') = 'false';

-- name: token_provenances
-- Where calls came from: of each call the last reading that says so.
CREATE VIEW token_tracking.token_provenances AS
SELECT usage.seq AS usage_id, coalesce(origin ->> 'request_id', usage.hold) AS request_id,
    fiscus.instant(usage.at) AS timestamp, origin ->> 'parent_request_id' AS parent_request_id,
    origin ->> 'root_request_id' AS root_request_id, origin ->> 'workflow_id' AS workflow_id,
    origin ->> 'session_id' AS session_id, origin ->> 'conversation_id' AS conversation_id,
    origin ->> 'trace_id' AS trace_id, (origin ->> 'depth')::integer AS depth, origin ->> 'agent_id' AS agent_id,
    origin ->> 'agent_type' AS agent_type, origin ->> 'signal_type' AS signal_type,
    coalesce(origin -> 'signal_trail', '[]') AS signal_trail, origin ->> 'task_type' AS task_type,
    origin ->> 'task_name' AS task_name, origin ->> 'intent' AS intent, origin ->> 'purpose' AS purpose,
    origin ->> 'prompt_template_id' AS prompt_template_id, origin ->> 'prompt_version' AS prompt_version,
    origin ->> 'input_hash' AS input_hash, origin ->> 'output_hash' AS output_hash,
    (origin ->> 'input_size')::bigint AS input_size, (origin ->> 'output_size')::bigint AS output_size,
    (usage.record ->> 'duration_ms')::bigint AS processing_time_ms, usage.record ->> 'error_code' AS error_code,
    usage.record ->> 'error_message' AS error_message, origin ? 'cache_hit_id' AS cached,
    origin ->> 'cache_hit_id' AS cache_hit_id, coalesce(origin -> 'code_references', '[]') AS code_references,
    coalesce(origin -> 'document_references', '[]') AS document_references,
    origin ->> 'system_version' AS system_version, origin ->> 'environment' AS environment,
    coalesce(origin -> 'tags', '[]') AS tags, coalesce(usage.record -> 'metadata', '{}') AS metadata,
    usage.record ->> 'outcome' = 'success' AS is_success, coalesce((origin ->> 'output_size')::bigint, 0) > 0 AS has_output,
    (origin ->> 'output_size')::double precision / nullif((origin ->> 'input_size')::double precision, 0)
    AS efficiency_ratio
FROM (
    SELECT DISTINCT ON (tenant, hold) seq, at, hold, record, record -> 'provenance' AS origin
    FROM fiscus.read_usage WHERE record -> 'provenance' IS NOT NULL ORDER BY tenant, hold, seq DESC
) AS usage;

-- name: provenance_relationships
CREATE VIEW token_tracking.provenance_relationships AS
SELECT usage.seq AS usage_id, fiscus.instant(usage.at) AS timestamp,
    coalesce(origin ->> 'request_id', usage.hold) AS source_request_id, related.target_request_id,
    related.relationship_type
FROM (
    SELECT DISTINCT ON (tenant, hold) seq, at, hold, record -> 'provenance' AS origin
    FROM fiscus.read_usage WHERE record -> 'provenance' IS NOT NULL ORDER BY tenant, hold, seq DESC
) AS usage
CROSS JOIN LATERAL (
    SELECT origin ->> 'parent_request_id' AS target_request_id,
        coalesce(origin ->> 'relationship', 'derived_from') AS relationship_type
    WHERE origin ? 'parent_request_id'
    UNION ALL
    SELECT origin ->> 'cache_hit_id', 'cached_from' WHERE origin ? 'cache_hit_id'
) AS related;
