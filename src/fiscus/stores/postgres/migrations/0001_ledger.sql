-- The journal and what stands beside it; the views that follow it. Times are ms since the epoch.

-- name: tenants
CREATE TABLE fiscus.tenants (
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE
);

-- name: formats
-- One row. A node that cannot read `min_format` does not start; a new format is written only after it was raised.
CREATE TABLE fiscus.formats (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    min_format integer NOT NULL
);

-- name: min_format
INSERT INTO fiscus.formats (min_format) VALUES (1);

-- name: journal
-- The truth, by month. Appended to, never rewritten; a month that a checkpoint has sealed can be dropped as a whole.
CREATE TABLE fiscus.journal (
    tenant integer NOT NULL,
    seq bigint NOT NULL,
    at bigint NOT NULL,
    body bytea NOT NULL,      -- the event, JSON
    hash bytea NOT NULL,      -- SHA-256 over the hash before, seq, at, body
    PRIMARY KEY (tenant, seq, at)
) PARTITION BY RANGE (at);

-- name: journal_other
-- What belongs to a month that has no partition; nothing ever fails for want of one.
CREATE TABLE fiscus.journal_other PARTITION OF fiscus.journal DEFAULT;

-- name: batches
-- One row for each commit and tenant, and the fence: two writers that know the same head want the same `first_seq`.
CREATE TABLE fiscus.batches (
    tenant integer NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    at bigint NOT NULL,
    hash bytea NOT NULL,      -- of the last entry
    PRIMARY KEY (tenant, first_seq)
);

-- name: ids
-- Ids of holds and of usage without one, given once for ever; the partitions of the journal cannot see to that.
CREATE TABLE fiscus.ids (
    tenant integer NOT NULL,
    key text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (tenant, key)
);

-- name: private
CREATE TABLE fiscus.private (
    tenant integer NOT NULL,
    seq bigint NOT NULL,
    account bigint NOT NULL,
    salt bytea NOT NULL,      -- key of the commitment in the event
    body bytea NOT NULL,      -- names, labels, reasons, records; JSON
    PRIMARY KEY (tenant, seq)
);

-- name: private_account
CREATE INDEX private_account ON fiscus.private (tenant, account);

-- name: answers
CREATE TABLE fiscus.answers (
    tenant integer NOT NULL,
    key text COLLATE "C" NOT NULL,   -- an idempotency key
    at bigint NOT NULL,
    answer bytea,                    -- JSON; NULL once it is not kept any more
    PRIMARY KEY (tenant, key)
);

-- name: answers_kept
CREATE INDEX answers_kept ON fiscus.answers (at) WHERE answer IS NOT NULL;

-- name: checkpoints
-- The keys of entities are numbers or texts: a text stands in `id`, beside the greatest number.
CREATE TABLE fiscus.checkpoints (
    tenant integer NOT NULL,
    seq bigint NOT NULL,
    kind smallint NOT NULL,
    number bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (tenant, seq, kind, number, id)
);

-- name: watermarks
CREATE TABLE fiscus.watermarks (
    tenant integer PRIMARY KEY,
    seq bigint NOT NULL,
    hash bytea NOT NULL,
    at bigint NOT NULL,
    accounts bigint NOT NULL,
    budgets bigint NOT NULL,
    cells bigint NOT NULL
) WITH (fillfactor = 50);

-- name: entities
CREATE TABLE fiscus.entities (
    tenant integer NOT NULL,
    kind smallint NOT NULL,           -- position in core.state.KINDS
    number bigint NOT NULL,           -- the key, or the greatest number where the key is a text
    id text COLLATE "C" NOT NULL,     -- the key, or empty where it is a number
    body bytea NOT NULL,              -- the entity, JSON
    name text COLLATE "C",            -- of an account
    owner bigint,                     -- parent of an account; account of a cell or hold
    template text COLLATE "C",        -- that opened an account
    carved boolean NOT NULL,          -- an account with an allocation
    live boolean NOT NULL,            -- an account that is neither terminated nor closed
    due_at bigint,                    -- when something is due
    due_rank integer NOT NULL,
    due_depth integer NOT NULL,
    touched_at bigint NOT NULL,
    PRIMARY KEY (tenant, kind, number, id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

-- name: entities_name
-- Not unique: a name may move from one account to another within one statement. The journal sees to that.
CREATE INDEX entities_name ON fiscus.entities (tenant, name) WHERE name IS NOT NULL;

-- name: entities_owner
CREATE INDEX entities_owner ON fiscus.entities (tenant, kind, owner) WHERE owner IS NOT NULL;

-- name: entities_carved
CREATE INDEX entities_carved ON fiscus.entities (tenant, number) WHERE carved;

-- name: entities_due
CREATE INDEX entities_due ON fiscus.entities (tenant, due_at) WHERE due_at IS NOT NULL;

-- name: entities_template
CREATE INDEX entities_template ON fiscus.entities (tenant, template, touched_at) WHERE template IS NOT NULL AND live;

-- name: entities_ended
-- Holds that nothing is due for any more, to be pruned.
CREATE INDEX entities_ended ON fiscus.entities (touched_at) WHERE kind = 3 AND due_at IS NULL;

-- name: usage
CREATE TABLE fiscus.usage (
    tenant integer NOT NULL,
    seq bigint NOT NULL,
    at bigint NOT NULL,
    hold text COLLATE "C" NOT NULL,
    account bigint NOT NULL,
    also bytea NOT NULL,      -- account numbers, JSON
    amounts bytea NOT NULL,   -- what this reading added, JSON
    uncovered bytea NOT NULL,
    estimated boolean NOT NULL,
    model text,
    provider text,
    record bytea,             -- the call's record, JSON
    PRIMARY KEY (tenant, seq, at)
) PARTITION BY RANGE (at);

-- name: usage_other
CREATE TABLE fiscus.usage_other PARTITION OF fiscus.usage DEFAULT;

-- name: make_months
-- Partitions for this month (UTC) and the next ones, where they are missing; returns how many were made. Attaching one
-- keeps writers waiting for 200 ms at most; if a long reader is in the way it is tried again later. A month whose
-- entries stand in the default partition already stays there.
CREATE FUNCTION fiscus.make_months(months integer) RETURNS integer LANGUAGE plpgsql
SET lock_timeout = '200ms' AS $function$
DECLARE
    this_month timestamp := date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC');
    month timestamp;
    parent text;
    part text;
    made integer := 0;
BEGIN
    FOR ahead IN 0 .. months - 1 LOOP
        month := this_month + make_interval(months => ahead);
        FOREACH parent IN ARRAY ARRAY['journal', 'usage'] LOOP
            part := parent || to_char(month, '_YYYY_MM');
            CONTINUE WHEN to_regclass('fiscus.' || part) IS NOT NULL;
            BEGIN
                EXECUTE format('CREATE TABLE fiscus.%I (LIKE fiscus.%I INCLUDING ALL)', part, parent);
                EXECUTE format(
                    'ALTER TABLE fiscus.%I ATTACH PARTITION fiscus.%I FOR VALUES FROM (%s) TO (%s)', parent, part,
                    (extract(epoch FROM month AT TIME ZONE 'UTC') * 1000)::bigint,
                    (extract(epoch FROM (month + interval '1 month') AT TIME ZONE 'UTC') * 1000)::bigint
                );
                made := made + 1;
            EXCEPTION WHEN duplicate_table OR unique_violation OR check_violation OR lock_not_available THEN
                RAISE NOTICE 'no partition %: %', part, SQLERRM;
            END;
        END LOOP;
    END LOOP;
    RETURN made;
END
$function$;
