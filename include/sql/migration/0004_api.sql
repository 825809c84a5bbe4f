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
  columns text[] NOT NULL,
  types text[] NOT NULL,
  rows jsonb NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (call, name, chunk)
);

-- What was answered: a client that lost the answer asks again, and nothing is done twice.
CREATE TABLE migration.calls (
  call text PRIMARY KEY,
  run_id text NOT NULL,
  function text NOT NULL,
  result jsonb,
  answered_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX calls_run ON migration.calls (run_id);
ALTER TABLE migration.incoming ENABLE ROW LEVEL SECURITY;
ALTER TABLE migration.calls ENABLE ROW LEVEL SECURITY;

-- An error of include/core/errors.py; the detail never quotes a row.
CREATE FUNCTION migration.refuse(p_code text, p_detail text) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = 'MDW01', MESSAGE = p_code, DETAIL = p_detail;
END $$;

-- An empty table for rows that come in, numbered as they come.
CREATE FUNCTION migration.open_incoming(p_name text, p_columns text[], p_types text[]) RETURNS void
LANGUAGE plpgsql SET search_path = '' SET client_min_messages = warning AS $$
BEGIN
  EXECUTE format('DROP TABLE IF EXISTS pg_temp.%I', 'incoming_' || p_name);
  EXECUTE format('CREATE TEMPORARY TABLE %I (place bigint GENERATED ALWAYS AS IDENTITY, %s) ON COMMIT DROP',
    'incoming_' || p_name,
    (SELECT string_agg(format('%I %s', c.name, CASE c.type WHEN 'real[]' THEN 'real[]' ELSE 'text' END), ', ')
     FROM unnest(p_columns, p_types) AS c (name, type)));
END $$;

CREATE FUNCTION migration_api.send(
  p_call text, p_name text, p_chunk bigint, p_columns text[], p_types text[], p_rows jsonb) RETURNS void
LANGUAGE sql SET search_path = '' AS $$
  INSERT INTO migration.incoming (call, name, chunk, columns, types, rows)
  VALUES (p_call, p_name, p_chunk, p_columns, p_types, p_rows)
  ON CONFLICT (call, name, chunk) DO UPDATE SET rows = excluded.rows
$$;

-- Unpacks what was sent for a call: p_chunks are the numbers of the chunks by name. Others were given up by the client.
CREATE FUNCTION migration.receive(p_call text, p_chunks jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  sent record;
BEGIN
  IF EXISTS (SELECT FROM jsonb_each(p_chunks) n CROSS JOIN LATERAL jsonb_array_elements_text(n.value) c
      WHERE NOT EXISTS (SELECT FROM migration.incoming i
        WHERE i.call = p_call AND i.name = n.key AND i.chunk = c.value::bigint)) THEN
    PERFORM migration.refuse('TARGET_INTERRUPTED', 'Rows that were sent are gone: the target crashed in between.');
  END IF;
  FOR sent IN SELECT DISTINCT ON (i.name) i.name, i.columns, i.types FROM migration.incoming i WHERE i.call = p_call LOOP
    PERFORM migration.open_incoming(sent.name, sent.columns, sent.types);
    EXECUTE format('INSERT INTO pg_temp.%I (%s) SELECT %s FROM migration.incoming i
        CROSS JOIN LATERAL jsonb_array_elements(i.rows) WITH ORDINALITY AS r (member, place)
        WHERE i.call = $1 AND i.name = $2 AND $3 -> i.name @> to_jsonb(i.chunk) ORDER BY i.chunk, r.place',
      'incoming_' || sent.name,
      (SELECT string_agg(quote_ident(c), ', ' ORDER BY n) FROM unnest(sent.columns) WITH ORDINALITY AS u (c, n)),
      (SELECT string_agg(CASE t WHEN 'real[]'
         THEN format('ARRAY(SELECT v.value::real FROM jsonb_array_elements_text(r.member -> %s) WITH ORDINALITY AS v ORDER BY v.ordinality)', n - 1)
         ELSE format('r.member ->> %s', n - 1) END, ', ' ORDER BY n)
       FROM unnest(sent.types) WITH ORDINALITY AS u (t, n)))
    USING p_call, sent.name, p_chunks;
  END LOOP;
  DELETE FROM migration.incoming i WHERE i.call = p_call;
END $$;

-- Calls a function of this schema with what was sent for the call; an answered call is answered again.
CREATE FUNCTION migration_api.call_once(
  p_call text, p_run text, p_function text, p_chunks jsonb, p_arguments jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '10min' AS $$
DECLARE
  answer jsonb;
  named text;
BEGIN
  SELECT c.result INTO answer FROM migration.calls c WHERE c.call = p_call;
  IF FOUND THEN
    RETURN answer;
  END IF;
  SELECT coalesce(string_agg(format('%I => %s', a.name, CASE format_type(a.type, NULL)
      WHEN 'text[]' THEN format('ARRAY(SELECT jsonb_array_elements_text($1 -> %L))', a.name)
      WHEN 'jsonb' THEN format('$1 -> %L', a.name)
      ELSE format('($1 ->> %L)::%s', a.name, format_type(a.type, NULL)) END), ', '), '')
    INTO named
  FROM pg_catalog.pg_proc f LEFT JOIN LATERAL unnest(f.proargnames, f.proargtypes::oid[]) AS a (name, type)
    ON p_arguments ? a.name
  WHERE f.pronamespace = 'migration_api'::regnamespace AND f.proname = p_function
    AND ARRAY(SELECT jsonb_object_keys(p_arguments)) <@ f.proargnames
  HAVING count(*) > 0;
  IF named IS NULL THEN
    RAISE EXCEPTION 'unknown function or arguments' USING ERRCODE = 'undefined_function';
  END IF;
  PERFORM migration.receive(p_call, p_chunks);
  EXECUTE format('SELECT to_jsonb(f) FROM migration_api.%I(%s) AS f', p_function, named) INTO answer USING p_arguments;
  INSERT INTO migration.calls (call, run_id, function, result) VALUES (p_call, p_run, p_function, answer);
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
  GRANT USAGE ON ALL SEQUENCES IN SCHEMA migration TO service_role;
  GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA migration, migration_api TO service_role;
END $$;
SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0004_api.sql');
