-- The one way to talk to the target once it is deployed: functions of schema migration_api. The tool calls them over a
-- direct connection or through the API (RPC), where only service_role may. Parameters are called p_<name>.
--
-- Rows come as tables pg_temp.incoming_<name>: over a direct connection by COPY, through the API in chunks, which
-- wait in migration.incoming until migration_api.call_once unpacks them and calls the function, in one transaction.
CREATE SCHEMA migration_api;
REVOKE ALL ON SCHEMA migration_api FROM PUBLIC;
GRANT USAGE ON SCHEMA migration, migration_api TO service_role;

-- A chunk of rows, an array each. Not worth a write-ahead log: after a crash the call is made again.
CREATE UNLOGGED TABLE migration.incoming (
  call text NOT NULL,
  name text NOT NULL,
  chunk bigint NOT NULL,
  rows jsonb NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (call, name, chunk)
);

-- What was answered: a client that lost the answer asks again, and nothing is done twice.
CREATE TABLE migration.calls (
  call text PRIMARY KEY,
  function text NOT NULL,
  result jsonb,
  answered_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE migration.incoming ENABLE ROW LEVEL SECURITY;
ALTER TABLE migration.calls ENABLE ROW LEVEL SECURITY;

-- An error of include/core/errors.py; the detail never quotes a row.
CREATE FUNCTION migration.refuse(p_code text, p_detail text) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = 'MDW01', MESSAGE = p_code, DETAIL = p_detail;
END $$;

-- The type of a column that comes in: text, or vector(<dimensions>).
CREATE FUNCTION migration.incoming_type(p_type text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  SELECT CASE WHEN p_type ~ '^vector\(\d+\)$' THEN 'extensions.' || p_type ELSE 'text' END
$$;

-- How a column of vectors is stored: within the row where that fits its page, which is a third faster, else beside it.
CREATE FUNCTION migration.vector_storage(p_dimensions integer) RETURNS text
LANGUAGE sql IMMUTABLE STRICT SET search_path = '' AS $$
  SELECT CASE WHEN p_dimensions <= 1900 THEN 'PLAIN' ELSE 'EXTERNAL' END
$$;

-- An empty table for rows that come in, numbered as they come.
CREATE FUNCTION migration.open_incoming(p_name text, p_columns text[], p_types text[]) RETURNS void
LANGUAGE plpgsql SET search_path = '' SET client_min_messages = warning AS $$
BEGIN
  EXECUTE format('DROP TABLE IF EXISTS pg_temp.%I', 'incoming_' || p_name);
  EXECUTE format('CREATE TEMPORARY TABLE %I (place bigint GENERATED ALWAYS AS IDENTITY, %s) ON COMMIT DROP',
    'incoming_' || p_name,
    (SELECT string_agg(format('%I %s%s', c.name, migration.incoming_type(c.type),
        ' STORAGE ' || migration.vector_storage(substring(c.type FROM '^vector\((\d+)\)$')::integer)), ', ')
     FROM unnest(p_columns, p_types) AS c (name, type)));
END $$;

-- Stores a chunk, unless its call is over: what was given up by the client may come late.
CREATE FUNCTION migration_api.send(p_call text, p_name text, p_chunk bigint, p_rows jsonb) RETURNS void
LANGUAGE sql SET search_path = '' AS $$
  INSERT INTO migration.incoming (call, name, chunk, rows) SELECT p_call, p_name, p_chunk, p_rows
  WHERE NOT EXISTS (SELECT FROM migration.calls c WHERE c.call = p_call)
  ON CONFLICT (call, name, chunk) DO UPDATE SET rows = excluded.rows
$$;

-- Unpacks what was sent for a call. p_incoming: by name, columns, types and the numbers of the chunks; others were given
-- up by the client.
CREATE FUNCTION migration.receive(p_call text, p_incoming jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  sent record;
BEGIN
  FOR sent IN SELECT n.key AS name, d.columns, d.types, d.chunks FROM jsonb_each(p_incoming) n
      CROSS JOIN LATERAL jsonb_to_record(n.value) AS d (columns text[], types text[], chunks bigint[]) LOOP
    IF (SELECT count(*) FROM migration.incoming i
        WHERE i.call = p_call AND i.name = sent.name AND i.chunk = ANY (sent.chunks)) < cardinality(sent.chunks) THEN
      PERFORM migration.refuse('TARGET_INTERRUPTED', 'Rows that were sent are gone: the target crashed in between.');
    END IF;
    PERFORM migration.open_incoming(sent.name, sent.columns, sent.types);
    EXECUTE format('INSERT INTO pg_temp.%I (%s) SELECT %s FROM migration.incoming i
        CROSS JOIN LATERAL jsonb_array_elements(i.rows) WITH ORDINALITY AS r (member, place)
        WHERE i.call = $1 AND i.name = $2 AND i.chunk = ANY ($3) ORDER BY i.chunk, r.place',
      'incoming_' || sent.name,
      (SELECT string_agg(quote_ident(c), ', ' ORDER BY n) FROM unnest(sent.columns) WITH ORDINALITY AS u (c, n)),
      (SELECT string_agg(format('(r.member ->> %s)::%s', n - 1, migration.incoming_type(t)), ', ' ORDER BY n)
       FROM unnest(sent.types) WITH ORDINALITY AS u (t, n)))
    USING p_call, sent.name, sent.chunks;
  END LOOP;
  DELETE FROM migration.incoming i WHERE i.call = p_call;
END $$;

-- Calls a function of this schema with what was sent for the call: once, for an answered call is answered again. Who asks
-- while the call is under way waits for its answer. p_arguments, at least one, are by name. The answer of a function that
-- only reads (STABLE) is kept nowhere, for it may hold values of rows: whoever lost it asks anew.
CREATE FUNCTION migration_api.call_once(p_call text, p_function text, p_incoming jsonb, p_arguments jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '10min' SET lock_timeout = '60s' AS $$
DECLARE
  answer jsonb;
  declared text;
  passed text;
  is_void boolean;
  only_reads constant boolean := (SELECT bool_and(f.provolatile <> 'v') FROM pg_catalog.pg_proc f
    WHERE f.pronamespace = 'migration_api'::regnamespace AND f.proname = p_function);
BEGIN
  INSERT INTO migration.calls (call, function) VALUES (p_call, p_function) ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN
    IF only_reads THEN
      PERFORM migration.refuse('TARGET_INTERRUPTED', 'An answer was lost on its way.');
    END IF;
    RETURN (SELECT c.result FROM migration.calls c WHERE c.call = p_call);
  END IF;
  SELECT string_agg(format('%I %s', a.name, format_type(a.type, NULL)), ', '),
      string_agg(format('%1$I => a.%1$I', a.name), ', '), bool_or(f.prorettype = 'void'::regtype)
    INTO declared, passed, is_void
  FROM pg_catalog.pg_proc f CROSS JOIN LATERAL unnest(f.proargnames, f.proargtypes::oid[]) AS a (name, type)
  WHERE f.pronamespace = 'migration_api'::regnamespace AND f.proname = p_function AND p_arguments ? a.name
    AND ARRAY(SELECT jsonb_object_keys(p_arguments)) <@ f.proargnames;
  IF declared IS NULL THEN
    RAISE EXCEPTION 'unknown function or arguments' USING ERRCODE = 'undefined_function';
  END IF;
  PERFORM migration.receive(p_call, p_incoming);
  EXECUTE format('SELECT to_jsonb(f) FROM jsonb_to_record($1) AS a (%s) CROSS JOIN LATERAL migration_api.%I(%s) AS f',
    declared, p_function, passed) INTO answer USING p_arguments;
  answer := CASE WHEN is_void THEN NULL ELSE answer END;
  UPDATE migration.calls c SET result = CASE WHEN only_reads THEN NULL ELSE answer END WHERE c.call = p_call;
  RETURN answer;
END $$;

-- What these schemas hold is for the owner and service_role alone; every file that adds to them ends with it.
CREATE FUNCTION migration.secure() RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  REVOKE ALL ON ALL FUNCTIONS IN SCHEMA migration, migration_api FROM PUBLIC;
  REVOKE ALL ON ALL TABLES IN SCHEMA migration FROM PUBLIC;
  GRANT ALL ON ALL TABLES IN SCHEMA migration TO service_role;
  -- What functions trust, and queries that they run, change on deployment only.
  REVOKE INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER ON migration.schema_versions, migration.finding_kinds,
    migration.entities FROM service_role;
  IF to_regclass('migration.schema_objects') IS NOT NULL THEN
    REVOKE INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER ON migration.schema_objects FROM service_role;
  END IF;
  GRANT USAGE ON ALL SEQUENCES IN SCHEMA migration TO service_role;
  GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA migration, migration_api TO service_role;
END $$;
SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0004_api.sql');
