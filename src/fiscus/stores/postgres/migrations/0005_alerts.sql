-- The outbox of alerts: what is to be told outside, and how far the journal was read for it.

-- name: progress
-- One node at a time reads the journal for all: `node`, until `until_ms`; `version` is the fence.
CREATE TABLE fiscus.alert_progress (
    tenant text PRIMARY KEY,
    version bigint NOT NULL DEFAULT 0,
    seq bigint NOT NULL DEFAULT -1,
    memory bytea NOT NULL DEFAULT '',
    measures bytea NOT NULL DEFAULT '',
    node text NOT NULL DEFAULT '',
    until_ms bigint NOT NULL DEFAULT 0
);

-- name: deliveries
CREATE TABLE fiscus.alert_deliveries (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    id text NOT NULL,
    channel text NOT NULL,
    account bigint,
    body bytea NOT NULL,
    state text NOT NULL,
    attempts integer NOT NULL,
    made_at bigint NOT NULL,
    due_at bigint NOT NULL,
    error text NOT NULL,
    node text NOT NULL DEFAULT '',
    until_ms bigint NOT NULL DEFAULT 0,
    UNIQUE (tenant, id)
);

-- name: deliveries_due
CREATE INDEX alert_deliveries_due ON fiscus.alert_deliveries (tenant, channel, due_at) WHERE state = 'waiting';

-- name: for_the_owner
REVOKE ALL ON fiscus.alert_progress, fiscus.alert_deliveries FROM PUBLIC;
