-- What all nodes of a ledger have to know and nobody else.

-- name: secrets
CREATE TABLE fiscus.secrets (
    name text PRIMARY KEY,
    value text NOT NULL
);

-- name: for_the_owner
REVOKE ALL ON fiscus.secrets FROM PUBLIC;
