-- Rollback of runs. While a run writes (migration.hold_lock), the tables it changes note in the journal what they were
-- before; migration_api.rollback_run puts it back.
--
-- Values are PostgreSQL's text, so that what is restored is what was there, byte for byte. Of a changed row only the
-- changed columns are kept: what others write beside them stays. Entries are appended and never touched; of several
-- about one column the first one counts. Statements are noted in chunks of rows: a row each would double a first load.
CREATE TABLE migration.journal (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  run_id text NOT NULL REFERENCES migration.runs,
  -- With its schema.
  table_name text NOT NULL,
  operation text NOT NULL CHECK (operation IN ('insert', 'update', 'delete')),
  -- {column: text} each: the key, and of changed rows what changed, of deleted rows everything.
  rows jsonb[] NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX journal_run ON migration.journal (run_id, table_name);
ALTER TABLE migration.journal ENABLE ROW LEVEL SECURITY;

-- Names of columns and their values in row r_row, as SQL for an array of texts.
CREATE FUNCTION migration.pairs(p_columns text[], r_row text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  SELECT format('ARRAY[%s]', string_agg(format('%L, %s.%I::text', c.name, r_row, c.name), ', ' ORDER BY c.place))
  FROM unnest(p_columns) WITH ORDINALITY AS c (name, place)
$$;

CREATE FUNCTION migration.columns_of(p_table regclass) RETURNS text[]
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
  WHERE a.attrelid = p_table AND a.attnum > 0 AND NOT a.attisdropped
$$;

CREATE FUNCTION migration.key_of(p_table regclass) RETURNS text[]
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
  WHERE i.indrelid = p_table AND i.indisprimary
$$;

-- Notes what a statement of a run changed: rows_before and rows_after. The argument is the key.
CREATE FUNCTION migration.note_in_journal() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET extra_float_digits = 1 AS $$
DECLARE
  key constant text[] := TG_ARGV[0]::text[];
  columns text[];
  chunks text;
  nothing boolean;
BEGIN
  -- Most statements of a nightly run find nothing to change.
  IF TG_OP = 'INSERT' THEN
    nothing := NOT EXISTS (SELECT FROM rows_after);
  ELSE
    nothing := NOT EXISTS (SELECT FROM rows_before);
  END IF;
  IF nothing THEN
    RETURN NULL;
  END IF;
  columns := migration.columns_of(TG_RELID);
  chunks := CASE TG_OP
    WHEN 'INSERT' THEN format('SELECT array_agg(jsonb_object(%s)) FROM rows_after n', migration.pairs(key, 'n'))
    ELSE format('SELECT array_agg(c.row) FROM (
        SELECT jsonb_object(r.pairs) AS row, (row_number() OVER () - 1) / 500 AS chunk FROM (%s) r) c GROUP BY c.chunk',
      CASE TG_OP
        WHEN 'DELETE' THEN format('SELECT %s AS pairs FROM rows_before o', migration.pairs(columns, 'o'))
        -- Compared byte by byte: 1.0 equals 1.00 otherwise.
        ELSE format('SELECT %s || d.pairs AS pairs FROM rows_before o JOIN rows_after n USING (%s)
            CROSS JOIN LATERAL (SELECT %s AS pairs OFFSET 0) d WHERE d.pairs IS NOT NULL',
          migration.pairs(key, 'o'), (SELECT string_agg(quote_ident(k), ', ') FROM unnest(key) AS k),
          (SELECT string_agg(format('CASE WHEN ROW(o.%1$I)::record OPERATOR(pg_catalog.*<>) ROW(n.%1$I)::record THEN %2$s END', c,
            migration.pairs(ARRAY[c], 'o')), ' || ') FROM unnest(columns) AS c)) END) END;
  EXECUTE format('INSERT INTO migration.journal (run_id, table_name, operation, rows) SELECT $1, $2, $3, c.rows
      FROM (%s) AS c (rows)', chunks)
    USING current_setting('migration.run'), format('%I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME), lower(TG_OP);
  RETURN NULL;
END $$;

-- Lets a table keep the journal. While no run writes, the triggers are not even called.
CREATE FUNCTION migration.keep_journal(p_table regclass) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  kind record;
BEGIN
  FOR kind IN SELECT * FROM (VALUES ('INSERT', 'NEW TABLE AS rows_after'),
      ('UPDATE', 'OLD TABLE AS rows_before NEW TABLE AS rows_after'), ('DELETE', 'OLD TABLE AS rows_before'))
      AS k (operation, referencing) LOOP
    EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s REFERENCING %s FOR EACH STATEMENT
        WHEN (current_setting(''migration.run'', true) <> '''') EXECUTE FUNCTION migration.note_in_journal(%L)',
      'journal_' || lower(kind.operation), kind.operation, p_table, kind.referencing, migration.key_of(p_table));
  END LOOP;
END $$;

-- What a run decides, and the next one builds on; tables of schema public follow in target/0005_journal.sql. Contents
-- of vectors are made anew from the vectors. What is a run's own, and what was paid, stays.
SELECT migration.keep_journal(('migration.' || t)::regclass) FROM unnest(ARRAY['id_map', 'redirects', 'quarantine',
  'findings', 'embedding_quarantine', 'watermarks', 'duplicate_pairs', 'match_models', 'merges', 'files']) AS t;

-- The runs to be rolled back with one, itself included, newest first: those that changed anything after it began to.
-- A failed run that was cleared may have gone on behind a later one.
CREATE FUNCTION migration.runs_since(p_run text) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
  known text[];
  runs text[] := ARRAY[p_run];
BEGIN
  LOOP
    known := runs;
    SELECT array_agg(r.run_id ORDER BY r.last DESC) INTO runs FROM (
      SELECT j.run_id, max(j.seq) AS last FROM migration.journal j
      WHERE j.seq >= (SELECT min(f.seq) FROM migration.journal f WHERE f.run_id = ANY (known)) GROUP BY j.run_id) r;
    IF runs IS NULL OR cardinality(runs) = cardinality(known) THEN
      RETURN coalesce(runs, known);
    END IF;
  END LOOP;
END $$;

-- What some runs changed in a table, as pg_temp.undone: the key, whether the row was there before, image: columns as
-- they were, and whole: the image has them all.
CREATE FUNCTION migration.find_undone(p_table regclass, p_runs text[]) RETURNS void
LANGUAGE plpgsql SET search_path = '' SET client_min_messages = warning AS $$
DECLARE
  keys text;
BEGIN
  SELECT string_agg(format('(r.row ->> %L)::%s AS %I', a.attname, format_type(a.atttypid, a.atttypmod), a.attname), ', '
    ORDER BY a.attnum) INTO keys
  FROM pg_catalog.pg_attribute a WHERE a.attrelid = p_table AND a.attname = ANY (migration.key_of(p_table));
  DROP TABLE IF EXISTS pg_temp.undone;
  -- Of equal keys of an object the last one counts.
  EXECUTE format('CREATE TEMPORARY TABLE undone ON COMMIT DROP AS
      SELECT %1$s, coalesce(min(e.seq) FILTER (WHERE e.operation = ''insert'') > min(e.seq), true) AS was_there,
        coalesce(jsonb_object_agg(v.key, v.value ORDER BY e.seq DESC) FILTER (WHERE v.key IS NOT NULL), ''{}'') AS image,
        bool_or(e.operation = ''delete'') AS whole
      FROM (SELECT j.seq, j.operation, r.row, %2$s FROM migration.journal j CROSS JOIN unnest(j.rows) AS r (row)
        WHERE j.run_id = ANY ($1) AND j.table_name = $2) e
      LEFT JOIN LATERAL jsonb_each(e.row) AS v ON e.operation <> ''insert'' GROUP BY %1$s',
    (SELECT string_agg(format('e.%I', k), ', ') FROM unnest(migration.key_of(p_table)) AS k), keys)
  USING p_runs, (SELECT format('%I.%I', c.relnamespace::regnamespace::text, c.relname) FROM pg_catalog.pg_class c
    WHERE c.oid = p_table);
  ANALYZE pg_temp.undone;
END $$;

-- What people decided about a pair since then is not undone: its decision stays, without what the runs had found.
CREATE FUNCTION migration.keep_decided(p_since timestamptz) RETURNS bigint
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  kept bigint;
BEGIN
  LOCK TABLE migration.duplicate_pairs IN SHARE ROW EXCLUSIVE MODE;  -- nobody decides in between
  UPDATE pg_temp.undone u SET was_there = true, image = CASE WHEN u.was_there
    THEN u.image - '{status,asked_again_at}'::text[] ELSE '{"score": null, "explanation": "{}", "run_id": null}' END
  FROM migration.duplicate_pairs d
  WHERE (d.entity, d.left_legacy_id, d.right_legacy_id) = (u.entity, u.left_legacy_id, u.right_legacy_id)
    AND d.reviewed_at >= p_since AND (u.was_there OR d.decided_at IS NOT NULL);
  GET DIAGNOSTICS kept = ROW_COUNT;
  RETURN kept;
END $$;

-- Makes the rows of pg_temp.undone what they were. What was not there goes first: it may hold the unique value of what
-- was. Returns {removed, restored}, in rows.
CREATE FUNCTION migration.restore_table(p_table regclass) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET extra_float_digits = 1 AS $$
DECLARE
  columns constant text[] := migration.columns_of(p_table);
  key constant text[] := migration.key_of(p_table);
  same_row constant text := (SELECT string_agg(format('t.%1$I = u.%1$I', k), ' AND ') FROM unnest(key) AS k);
  were constant text := (SELECT string_agg(format('(u.image ->> %L)::%s', a.attname,
      format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = p_table AND a.attname = ANY (columns));
  removed bigint;
  changed bigint := 0;
  brought_back bigint;
BEGIN
  EXECUTE format('DELETE FROM %s t USING pg_temp.undone u WHERE %s AND NOT u.was_there', p_table, same_row);
  GET DIAGNOSTICS removed = ROW_COUNT;
  BEGIN
    EXECUTE format('UPDATE %s t SET %s FROM pg_temp.undone u
        WHERE %s AND u.was_there AND NOT jsonb_object(%s) @> u.image',
      p_table, (SELECT string_agg(format('%1$I = CASE WHEN u.image ? %1$L THEN (u.image ->> %1$L)::%2$s ELSE t.%1$I END',
          a.attname, format_type(a.atttypid, a.atttypmod)), ', ') FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = p_table AND a.attname = ANY (columns) AND a.attname <> ALL (key)),
      same_row, migration.pairs(columns, 't'));
    GET DIAGNOSTICS changed = ROW_COUNT;
  EXCEPTION WHEN unique_violation THEN
    -- Rows had exchanged a unique value: none of them may hold it while the others are written.
    EXECUTE format('UPDATE pg_temp.undone u SET whole = true, image = jsonb_object(%s) || u.image FROM %s t
        WHERE %s AND u.was_there', migration.pairs(columns, 't'), p_table, same_row);
    EXECUTE format('DELETE FROM %s t USING pg_temp.undone u WHERE %s', p_table, same_row);
  END;
  EXECUTE format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM pg_temp.undone u
      WHERE u.was_there AND u.whole AND NOT EXISTS (SELECT FROM %s t WHERE %s)',
    p_table, (SELECT string_agg(quote_ident(c), ', ') FROM unnest(columns) AS c), were, p_table, same_row);
  GET DIAGNOSTICS brought_back = ROW_COUNT;
  RETURN jsonb_build_object('removed', removed, 'restored', changed + brought_back);
END $$;

-- Rows of an entity among pg_temp.undone that somebody else has written, or removed, since.
CREATE FUNCTION migration.written_by_others(p_entity text) RETURNS bigint
LANGUAGE plpgsql SET search_path = '' SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET extra_float_digits = 1 SET bytea_output = 'hex' AS $$
DECLARE
  written bigint;
  as_written bigint;
BEGIN
  SELECT count(*) INTO written FROM migration.id_map m JOIN pg_temp.undone u ON u.id = m.target_id
  WHERE m.entity = p_entity AND m.state IN ('live', 'merged');
  EXECUTE format('SELECT count(*) FROM %s JOIN pg_temp.undone u ON u.id = t.id
      WHERE m.state IN (''live'', ''merged'') AND t.deleted_at IS NULL AND %s',
    migration.stored(p_entity), migration.as_written(p_entity)) INTO as_written;
  RETURN written - as_written;
END $$;

-- Refuses to roll back what cannot be, or not without being told to.
CREATE FUNCTION migration.refuse_rollback(p_run text, p_runs text[], p_with_later boolean) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  entry migration.runs;
  undone bigint;
BEGIN
  SELECT * INTO entry FROM migration.runs r WHERE r.run_id = p_run;
  IF entry.dry_run IS NOT false THEN
    PERFORM migration.refuse('ROLLBACK_RUN_UNKNOWN', CASE WHEN entry.dry_run
      THEN format('Run %s was a dry run.', p_run) ELSE 'The target knows no such run.' END);
  END IF;
  IF NOT entry.journal_kept THEN
    PERFORM migration.refuse('ROLLBACK_IMPOSSIBLE', 'What the run replaced is kept no more.');
  END IF;
  SELECT count(*) INTO undone FROM migration.audit_log a WHERE a.event = 'merge undone' AND a.at >= (
    SELECT min(j.recorded_at) FROM migration.journal j WHERE j.run_id = ANY (p_runs));
  IF undone > 0 THEN
    PERFORM migration.refuse('ROLLBACK_IMPOSSIBLE', format('People have undone merges since it began: %s.', undone));
  END IF;
  IF cardinality(p_runs) > 1 AND NOT p_with_later THEN
    PERFORM migration.refuse('ROLLBACK_BLOCKED', format('Later runs have written: %s.',
      array_to_string(array_remove(p_runs, p_run), ', ')));
  END IF;
END $$;

-- Puts back what some runs have changed, table by table. Returns {table: {removed, restored}}; decisions of people that
-- were kept, and rows of others that were overwritten, beside them.
CREATE FUNCTION migration.restore(p_runs text[], p_overwrite boolean) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  since constant timestamptz := (SELECT min(j.recorded_at) FROM migration.journal j WHERE j.run_id = ANY (p_runs));
  place record;
  tables jsonb := '{}';
  decided bigint := 0;
  written bigint;
  overwritten bigint := 0;
BEGIN
  SET CONSTRAINTS ALL DEFERRED;
  FOR place IN
    SELECT j.table_name AS name, j.table_name::regclass AS relation, e.entity
    FROM (SELECT DISTINCT j.table_name FROM migration.journal j WHERE j.run_id = ANY (p_runs)) j
    LEFT JOIN migration.entities e ON j.table_name = format('public.%I', e.entity)
    -- What tells whether somebody else wrote a row is restored behind the rows.
    ORDER BY e.entity IS NULL, j.table_name
  LOOP
    PERFORM migration.find_undone(place.relation, p_runs);
    IF place.entity IS NOT NULL THEN
      written := migration.written_by_others(place.entity);
      overwritten := overwritten + written;
      IF written > 0 AND NOT p_overwrite THEN
        PERFORM migration.refuse('ROLLBACK_FOREIGN_WRITES', format('%s: %s rows.', place.entity, written));
      END IF;
    ELSIF place.name = 'migration.duplicate_pairs' THEN
      decided := migration.keep_decided(since);
    END IF;
    tables := tables || jsonb_build_object(place.name, migration.restore_table(place.relation));
  END LOOP;
  SET CONSTRAINTS ALL IMMEDIATE;
  PERFORM migration.refresh_contents(v.vectors) FROM migration.vector_tables() v
  WHERE tables ? format('public.%I', v.vectors)
    -- Before the first index they are made at once.
    AND to_regclass(format('migration.%I', v.contents || '_hnsw')) IS NOT NULL;
  RETURN jsonb_build_object('tables', tables, 'decisions_kept', decided, 'overwritten', overwritten);
END $$;

-- Rolls a run back, with p_with_later also those that wrote behind it: the target is what it was before. Rows that
-- somebody else wrote since are refused unless p_overwrite; columns that the run did not change stay in any case. Files
-- in Storage stay. p_dead: of the lock, as take_lock. Returns {runs: those rolled back now, newest first; none: it was
-- before, tables, decisions_kept, overwritten}.
CREATE FUNCTION migration_api.rollback_run(p_run text, p_by text, p_reason text, p_with_later boolean,
  p_overwrite boolean, p_dead jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '10min' SET work_mem = '64MB' AS $$
DECLARE
  runs text[];
  result jsonb;
  culprit text;
BEGIN
  IF coalesce(p_by, '') !~ '\S' OR coalesce(p_reason, '') !~ '\S' THEN
    PERFORM migration.refuse('PARAM_INVALID', 'Nobody who decided, or no reason.');
  END IF;
  IF p_dead IS NOT NULL AND NOT migration.evict(p_run, p_dead) THEN
    PERFORM migration.refuse('RUN_LOCKED', 'It is dead, but its last batch still runs in the target.');
  END IF;
  PERFORM migration.keep_runs_out();
  IF (SELECT r.status FROM migration.runs r WHERE r.run_id = p_run) = 'rolled_back' THEN
    RETURN '{"runs": [], "tables": {}, "decisions_kept": 0, "overwritten": 0}';
  END IF;
  runs := migration.runs_since(p_run);
  PERFORM migration.refuse_rollback(p_run, runs, p_with_later);
  BEGIN
    result := migration.restore(runs, p_overwrite);
  EXCEPTION WHEN integrity_constraint_violation THEN
    GET STACKED DIAGNOSTICS culprit = TABLE_NAME;
    PERFORM migration.refuse('ROLLBACK_BLOCKED',
      format('Rows of table %s that others wrote refer to what would go, or stand in its way.', culprit));
  END;
  UPDATE migration.runs r SET status = 'rolled_back', ended_at = coalesce(r.ended_at, now()), rolled_back_at = now(),
    rolled_back_by = p_by, rollback_reason = p_reason WHERE r.run_id = ANY (runs);
  DELETE FROM migration.survivors s WHERE s.run_id = ANY (runs);
  DELETE FROM migration.journal j WHERE j.run_id = ANY (runs);
  result := jsonb_build_object('runs', to_jsonb(runs)) || result;
  PERFORM migration.audit(p_run, 'rolled back', result || jsonb_build_object('by', p_by));
  RETURN result;
END $$;

-- Keeps the journals of the last p_runs runs that wrote, and of those that wrote in between; returns of how many runs
-- they were dropped. Behind a run that was closed.
CREATE FUNCTION migration_api.drop_journals(p_runs bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '10min' AS $$
DECLARE
  last_dropped bigint;
  further bigint;
  dropped bigint;
BEGIN
  SELECT max(o.last) INTO further FROM (
    SELECT max(j.seq) AS last FROM migration.journal j GROUP BY j.run_id ORDER BY 1 DESC OFFSET p_runs) o;
  -- A run without the entries of another in between cannot be rolled back either.
  WHILE further IS DISTINCT FROM last_dropped LOOP
    last_dropped := further;
    SELECT max(j.seq) INTO further FROM migration.journal j
    WHERE j.run_id IN (SELECT f.run_id FROM migration.journal f WHERE f.seq <= last_dropped);
  END LOOP;
  UPDATE migration.runs r SET journal_kept = false
  WHERE r.run_id IN (SELECT j.run_id FROM migration.journal j WHERE j.seq <= last_dropped);
  GET DIAGNOSTICS dropped = ROW_COUNT;
  DELETE FROM migration.journal j WHERE j.seq <= last_dropped;
  RETURN dropped;
END $$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0017_rollback.sql');
