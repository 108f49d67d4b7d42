-- Deliveries of alerts, and how far the journal was read for them.

-- name: make_progress
INSERT INTO alert_progress (tenant) VALUES ($1) ON CONFLICT DO NOTHING

-- name: lead
UPDATE alert_progress SET node = $1, until_ms = $3 WHERE tenant = $4 AND (node = $1 OR until_ms <= $2)
RETURNING version, seq, memory, measures

-- name: step
-- Two nodes that think they have the lead: the row is locked, and the second finds another version.
UPDATE alert_progress SET version = version + 1, seq = $1, memory = $2, measures = $3
WHERE tenant = $4 AND version = $5

-- name: put
INSERT INTO alert_deliveries (tenant, id, channel, account, body, state, attempts, made_at, due_at, error)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING

-- name: erase
DELETE FROM alert_deliveries WHERE tenant = $1 AND account = $2

-- name: claim
-- What another node is claiming in this moment is left to it.
UPDATE alert_deliveries SET node = $1, until_ms = $3 WHERE number IN (
    SELECT number FROM alert_deliveries
    WHERE tenant = $4 AND channel = $5 AND state = 'waiting' AND due_at <= $2 AND until_ms <= $2
    ORDER BY due_at, number LIMIT $6 FOR UPDATE SKIP LOCKED
) RETURNING number, id, channel, account, body, state, attempts, made_at, due_at, error

-- name: note
UPDATE alert_deliveries SET state = $1, attempts = $2, due_at = $3, error = $4, until_ms = 0
WHERE tenant = $5 AND id = $6

-- name: deliveries
SELECT number, id, channel, account, body, state, attempts, made_at, due_at, error FROM alert_deliveries
WHERE tenant = $1 AND number > $2 AND ($3::text IS NULL OR state = $3) ORDER BY number LIMIT $4

-- name: counts
SELECT channel, count(*) FILTER (WHERE state = 'waiting'), count(*) FILTER (WHERE state = 'dead'),
    min(made_at) FILTER (WHERE state = 'waiting')
FROM alert_deliveries WHERE tenant = $1 GROUP BY channel ORDER BY channel

-- name: retry
UPDATE alert_deliveries SET state = 'waiting', made_at = $1, due_at = $1, attempts = 0
WHERE tenant = $2 AND state = 'dead' AND ($3::text IS NULL OR id = $3)

-- name: forget
DELETE FROM alert_deliveries WHERE number IN (
    SELECT number FROM alert_deliveries
    WHERE tenant = $1 AND (
        state = 'sent' AND made_at < $2 OR state = 'dead' AND made_at < $3 OR state = 'waiting' AND made_at < $4
    ) LIMIT $5
)
