-- Dropping what was archived.

-- name: drop_upto
-- Drops what stands in `parent` (journal or usage) up to the given entries of tenants: partitions that hold nothing else
-- as a whole, the rest row by row. Rows go first, since dropping a partition makes everybody wait until the commit.
-- Returns how many partitions and rows went.
CREATE FUNCTION fiscus.drop_upto(parent regclass, numbers integer[], uptos bigint[]) RETURNS bigint
LANGUAGE plpgsql AS $function$
DECLARE
    part regclass;
    has_rows boolean;
    has_others boolean;
    is_other boolean;
    whole regclass[] := '{}';
    dropped bigint := 0;
    went bigint;
BEGIN
    FOR part IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = parent LOOP
        EXECUTE format('SELECT EXISTS (SELECT 1 FROM %s)', part) INTO has_rows;
        CONTINUE WHEN NOT has_rows;
        EXECUTE format(
            'SELECT EXISTS (
                SELECT 1 FROM fiscus.tenants LEFT JOIN unnest($1, $2) AS given (number, upto) USING (number)
                WHERE (SELECT max(seq) FROM %s AS part WHERE part.tenant = tenants.number) > coalesce(given.upto, 0)
            )', part
        ) INTO has_others USING numbers, uptos;
        is_other := part::text LIKE '%\_other';
        IF has_others OR is_other THEN
            EXECUTE format(
                'DELETE FROM %s AS part USING unnest($1, $2) AS given (number, upto)
                WHERE part.tenant = given.number AND part.seq <= given.upto', part
            ) USING numbers, uptos;
            GET DIAGNOSTICS went = ROW_COUNT;
            dropped := dropped + went;
        ELSE
            whole := whole || part;
        END IF;
    END LOOP;
    FOREACH part IN ARRAY whole LOOP
        EXECUTE format('DROP TABLE %s', part);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END
$function$;
