-- name: entities_ended_loans
-- Loans that have ended (what is searched for is the field active, false), to be pruned.
CREATE INDEX entities_ended_loans ON fiscus.entities (touched_at)
WHERE kind = 8 AND position('\x22616374697665223a66616c7365'::bytea IN body) > 0;
