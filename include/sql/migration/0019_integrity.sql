-- Whether the target still is what was deployed and loaded: its schema, its security, and the records that explain its
-- rows. Checks as in 0008_validation.sql; none writes anything but what it was asked to record.

-- What was deployed, object by object. Written on deployment alone, so what somebody changes later differs from it.
CREATE TABLE migration.schema_objects (
  kind text NOT NULL,
  -- What it is part of: a relation, a function, a schema, a type.
  object text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  definition text NOT NULL,
  PRIMARY KEY (kind, object, name)
);
ALTER TABLE migration.schema_objects ENABLE ROW LEVEL SECURITY;

-- Relations of ours: all in schema migration, and in public those that entities, their vectors and the view are.
CREATE FUNCTION migration.own_relations() RETURNS TABLE (oid oid)
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
  RETURN QUERY SELECT c.oid FROM pg_catalog.pg_class c
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND (c.relnamespace = 'migration'::regnamespace
    OR c.relnamespace = 'public'::regnamespace AND c.relname IN (
      SELECT e.entity FROM migration.entities e UNION SELECT v.vectors FROM migration.vector_tables() v
      UNION SELECT 'current_patients'));
END $$;

CREATE FUNCTION migration.own_functions() RETURNS TABLE (oid oid)
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
  RETURN QUERY SELECT p.oid FROM pg_catalog.pg_proc p
  WHERE p.prokind IN ('f', 'p') AND (p.pronamespace IN ('migration'::regnamespace, 'migration_api'::regnamespace,
      'private'::regnamespace)
    OR p.pronamespace = 'public'::regnamespace AND p.proname IN (SELECT v.search FROM migration.vector_tables() v));
END $$;

-- Who may do what, but for the owner: grantee and privileges; a star is the right to pass them on.
CREATE FUNCTION migration.grants(p_acl aclitem[], p_owner oid) RETURNS TABLE (grantee text, privileges text)
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(a.grantee) END,
    string_agg(a.privilege_type || CASE WHEN a.is_grantable THEN '*' ELSE '' END, ', ' ORDER BY a.privilege_type)
  FROM pg_catalog.aclexplode(p_acl) a WHERE a.grantee <> p_owner GROUP BY a.grantee
$$;

-- The schema as it is. What runs change by themselves is left out: dimensions of vectors, HNSW indexes, statistics.
CREATE FUNCTION migration.schema_now() RETURNS TABLE (kind text, object text, name text, definition text)
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
  RETURN QUERY
  WITH relations AS MATERIALIZED (
    SELECT c.*, c.oid AS id, c.oid::regclass::text AS label
    FROM migration.own_relations() o JOIN pg_catalog.pg_class c ON c.oid = o.oid),
  tables AS MATERIALIZED (SELECT r.* FROM relations r WHERE r.relkind <> 'S'),
  columns AS MATERIALIZED (
    SELECT t.label, t.relowner, a.* FROM tables t JOIN pg_catalog.pg_attribute a ON a.attrelid = t.id
    WHERE a.attnum > 0 AND NOT a.attisdropped),
  functions AS MATERIALIZED (
    SELECT p.*, p.oid AS id, p.oid::regprocedure::text AS label
    FROM migration.own_functions() o JOIN pg_catalog.pg_proc p ON p.oid = o.oid),
  schemas AS MATERIALIZED (
    SELECT n.* FROM pg_catalog.pg_namespace n WHERE n.nspname IN ('migration', 'migration_api', 'private'))
  SELECT 'file', 'migration.schema_versions', v.name, coalesce(v.hash, '') FROM migration.schema_versions v
  UNION ALL
  SELECT 'schema', n.nspname::text, '', '' FROM schemas n
  UNION ALL
  SELECT 'relation', r.label, '', concat_ws(' ', r.relkind, r.relpersistence, r.reloptions::text,
    CASE WHEN r.relkind IN ('v', 'm') THEN md5(pg_catalog.pg_get_viewdef(r.id)) END) FROM relations r
  UNION ALL
  SELECT 'row security', r.label, '', concat_ws(', ', CASE WHEN r.relrowsecurity THEN 'on' ELSE 'off' END,
    CASE WHEN r.relforcerowsecurity THEN 'forced' END) FROM relations r WHERE r.relkind IN ('r', 'p')
  UNION ALL
  SELECT 'column', c.label, c.attname::text, concat_ws(' ',
    CASE WHEN y.typname IN ('vector', 'halfvec') THEN y.typname
      ELSE pg_catalog.format_type(c.atttypid, c.atttypmod) END,
    CASE WHEN c.attnotnull THEN 'NOT NULL' END,
    'DEFAULT ' || pg_catalog.pg_get_expr(d.adbin, d.adrelid), nullif(c.attidentity::text, ''),
    nullif(c.attgenerated::text, ''), CASE WHEN c.attcollation <> y.typcollation THEN c.attcollation::regcollation END)
  FROM columns c JOIN pg_catalog.pg_type y ON y.oid = c.atttypid
  LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.attrelid AND d.adnum = c.attnum
  UNION ALL
  SELECT 'constraint', t.label, k.conname::text, concat_ws(' ', pg_catalog.pg_get_constraintdef(k.oid),
    -- Foreign keys are triggers, which a superuser can switch off.
    CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgconstraint = k.oid AND g.tgenabled <> 'O')
      THEN 'switched off' END)
  FROM tables t JOIN pg_catalog.pg_constraint k ON k.conrelid = t.id WHERE k.contype IN ('c', 'f', 'p', 'u', 'x')
  UNION ALL
  SELECT 'index', t.label, i.relname::text, concat_ws(' ', pg_catalog.pg_get_indexdef(x.indexrelid),
    CASE WHEN NOT (x.indisvalid AND x.indisready) THEN 'invalid' END)
  FROM tables t JOIN pg_catalog.pg_index x ON x.indrelid = t.id JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
  WHERE NOT EXISTS (SELECT FROM migration.vector_tables() v WHERE i.relname = v.contents || '_hnsw')
  UNION ALL
  SELECT 'trigger', t.label, g.tgname::text, pg_catalog.pg_get_triggerdef(g.oid)
    || CASE g.tgenabled WHEN 'O' THEN '' ELSE ' enabled: ' || g.tgenabled::text END
  FROM tables t JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.id WHERE NOT g.tgisinternal
  UNION ALL
  SELECT 'rule', t.label, w.rulename::text, pg_catalog.pg_get_ruledef(w.oid)
  FROM tables t JOIN pg_catalog.pg_rewrite w ON w.ev_class = t.id WHERE w.ev_type <> '1'
  UNION ALL
  SELECT 'policy', t.label, p.polname::text, concat_ws(' ', p.polcmd, CASE WHEN NOT p.polpermissive THEN 'restrictive' END,
    'to ' || (SELECT string_agg(CASE u.role WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(u.role) END, ', '
      ORDER BY u.role) FROM unnest(p.polroles) AS u (role)),
    'using ' || pg_catalog.pg_get_expr(p.polqual, p.polrelid),
    'check ' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
  FROM tables t JOIN pg_catalog.pg_policy p ON p.polrelid = t.id
  UNION ALL
  SELECT 'enum', l.enumtypid::regtype::text, '', string_agg(l.enumlabel, ', ' ORDER BY l.enumsortorder)
  FROM pg_catalog.pg_enum l WHERE l.enumtypid IN (SELECT c.atttypid FROM columns c) GROUP BY l.enumtypid
  UNION ALL
  SELECT 'function', f.label, '', md5(regexp_replace(pg_catalog.pg_get_functiondef(f.id),
    '(?<=(vector|halfvec))\(\d+\)|\n SET "?hnsw\.[^\n]*', '', 'g')) FROM functions f
  UNION ALL
  SELECT 'grant', n.nspname::text, 'to ' || g.grantee, g.privileges FROM schemas n
  CROSS JOIN LATERAL migration.grants(coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner)), n.nspowner) g
  UNION ALL
  SELECT 'grant', r.label, 'to ' || g.grantee, g.privileges FROM relations r
  CROSS JOIN LATERAL migration.grants(coalesce(r.relacl,
    pg_catalog.acldefault(CASE r.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", r.relowner)), r.relowner) g
  UNION ALL
  SELECT 'grant', c.label, format('to %s on %s', g.grantee, c.attname), g.privileges FROM columns c
  CROSS JOIN LATERAL migration.grants(c.attacl, c.relowner) g WHERE c.attacl IS NOT NULL
  UNION ALL
  SELECT 'grant', f.label, 'to ' || g.grantee, g.privileges FROM functions f
  CROSS JOIN LATERAL migration.grants(coalesce(f.proacl, pg_catalog.acldefault('f', f.proowner)), f.proowner) g;
END $$;

-- For whoever deploys, before files are run: what is there, to tell it from what they change. NULL: nothing is recorded.
CREATE FUNCTION migration.schema_before() RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT jsonb_agg(n) FROM migration.schema_now() n WHERE EXISTS (SELECT FROM migration.schema_objects)
$$;

-- Behind a deployment: what its files changed since p_before becomes the record (NULL: the schema as it is), so that
-- what somebody else had changed before stays a difference. Without new files nothing is recorded.
CREATE FUNCTION migration.record_deployment(p_before jsonb DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = '' SET client_min_messages = warning AS $$
BEGIN
  IF NOT EXISTS (
    SELECT FROM (SELECT o.name, o.definition FROM migration.schema_objects o WHERE o.kind = 'file') o
    FULL JOIN migration.schema_versions v USING (name) WHERE coalesce(v.hash, '') IS DISTINCT FROM o.definition)
  THEN
    RETURN;
  END IF;
  DROP TABLE IF EXISTS pg_temp.schema_now, pg_temp.schema_changed;
  CREATE TEMPORARY TABLE schema_now ON COMMIT DROP AS SELECT n.* FROM migration.schema_now() n;
  -- All that is, or was, and is not as it was.
  CREATE TEMPORARY TABLE schema_changed ON COMMIT DROP AS
  WITH former AS (
    SELECT b.* FROM jsonb_to_recordset(p_before) AS b (kind text, object text, name text, definition text)
    UNION ALL SELECT o.* FROM migration.schema_objects o WHERE p_before IS NULL)
  SELECT kind, object, name FROM pg_temp.schema_now n FULL JOIN former f USING (kind, object, name)
  WHERE n.definition IS DISTINCT FROM f.definition;
  DELETE FROM migration.schema_objects o USING pg_temp.schema_changed c
  WHERE (o.kind, o.object, o.name) = (c.kind, c.object, c.name);
  INSERT INTO migration.schema_objects (kind, object, name, definition)
  SELECT n.kind, n.object, n.name, n.definition FROM pg_temp.schema_now n
  JOIN pg_temp.schema_changed c USING (kind, object, name);
END $$;

-- For the owner: the schema as it is is right, for example behind an upgrade of the server, which may print definitions
-- otherwise.
CREATE FUNCTION migration.accept_schema() RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  DELETE FROM migration.schema_objects o WHERE o.kind = 'file';
  PERFORM migration.record_deployment();
END $$;

-- Differences from the record, as keys of a check. What was added is somebody else's business (harmless), unless it lets
-- somebody in, or acts: a grant to a role of the API, a policy, a trigger, a rule.
CREATE FUNCTION migration.schema_drift() RETURNS TABLE (key text, harmless boolean)
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM migration.schema_objects) THEN
    RETURN QUERY SELECT 'no deployment is recorded', false;
    RETURN;
  END IF;
  RETURN QUERY
  WITH differences AS MATERIALIZED (
    SELECT kind, object, name, o.definition IS NULL AS added, n.definition IS NULL AS gone
    FROM migration.schema_objects o FULL JOIN migration.schema_now() n USING (kind, object, name)
    WHERE o.definition IS DISTINCT FROM n.definition)
  SELECT concat_ws(' ', d.kind, d.object, nullif(d.name, '')) || CASE WHEN d.added THEN ': added' WHEN d.gone
      THEN ': gone' ELSE ': changed' END,
    d.added AND NOT (EXISTS (SELECT FROM migration.schema_objects o WHERE o.object = d.object)
      AND (d.kind IN ('policy', 'trigger', 'rule')
        OR d.kind = 'grant' AND d.name ~ '^to (PUBLIC|anon|authenticated|service_role)( |$)'))
  FROM differences d;
END $$;

-- What a role of the API may do with what is ours, other than p_allowed with tables of schema public.
CREATE FUNCTION migration.privileges_of(p_role text, p_allowed text) RETURNS TABLE (key text)
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
  RETURN QUERY
  WITH RECURSIVE relations AS MATERIALIZED (
    SELECT c.oid, c.relkind, c.relnamespace = 'public'::regnamespace AS shown
    FROM migration.own_relations() o JOIN pg_catalog.pg_class c ON c.oid = o.oid),
  -- Views of others show rows with the rights of their owner.
  views AS (
    SELECT r.oid FROM relations r
    UNION
    SELECT w.ev_class FROM views v JOIN pg_catalog.pg_depend d ON d.refobjid = v.oid
      AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.classid = 'pg_catalog.pg_rewrite'::regclass
    JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid JOIN pg_catalog.pg_class c ON c.oid = w.ev_class
    WHERE c.relkind IN ('v', 'm') AND coalesce(c.reloptions::text, '') !~* 'security_invoker=(true|on|yes|1)')
  SELECT format('%s: %s', r.oid::regclass, p.privilege) FROM relations r
  CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS p (privilege)
  WHERE r.relkind <> 'S' AND (NOT r.shown OR p.privilege <> p_allowed)
    AND (pg_catalog.has_table_privilege(p_role, r.oid, p.privilege)
      OR p.privilege IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
        AND pg_catalog.has_any_column_privilege(p_role, r.oid, p.privilege))
  UNION ALL
  SELECT r.oid::regclass::text FROM relations r
  WHERE CASE WHEN r.relkind = 'S' THEN pg_catalog.has_sequence_privilege(p_role, r.oid, 'USAGE, SELECT, UPDATE') END
  UNION ALL
  SELECT format('%s: SELECT', v.oid::regclass) FROM views v WHERE v.oid NOT IN (SELECT r.oid FROM relations r)
    AND pg_catalog.has_any_column_privilege(p_role, v.oid, 'SELECT')
  UNION ALL
  SELECT format('%s: EXECUTE', f.oid::regprocedure) FROM migration.own_functions() f
  JOIN pg_catalog.pg_proc p ON p.oid = f.oid
  WHERE (p_allowed = '' OR p.pronamespace IN ('migration'::regnamespace, 'migration_api'::regnamespace))
    AND pg_catalog.has_function_privilege(p_role, f.oid, 'EXECUTE')
  UNION ALL
  SELECT format('schema %s: %s', n.nspname, p.privilege) FROM pg_catalog.pg_namespace n
  CROSS JOIN unnest(ARRAY['USAGE', 'CREATE']) AS p (privilege)
  WHERE n.nspname IN ('migration', 'migration_api', 'private') AND (p_allowed = '' OR n.nspname <> 'private')
    AND pg_catalog.has_schema_privilege(p_role, n.oid, p.privilege);
END $$;

-- Level 4, of the target as a whole: its schema against what was deployed, and who may do what, whatever was deployed.
CREATE FUNCTION migration_api.check_schema() RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET client_min_messages = warning SET statement_timeout = '2min' AS $$
BEGIN
  DROP TABLE IF EXISTS pg_temp.drift;
  CREATE TEMPORARY TABLE drift ON COMMIT DROP AS SELECT d.key, d.harmless FROM migration.schema_drift() d;
  RETURN jsonb_build_array(
    migration.check_none('schema_as_deployed', 'SELECT d.key FROM pg_temp.drift d WHERE NOT d.harmless'),
    migration.check_none('schema_additions', 'SELECT d.key FROM pg_temp.drift d WHERE d.harmless', 'warn'),
    migration.check_none('anon_has_nothing', $q$SELECT p.key FROM migration.privileges_of('anon', '') p$q$),
    migration.check_none('users_only_read',
      $q$SELECT p.key FROM migration.privileges_of('authenticated', 'SELECT') p$q$),
    migration.check_none('row_security_everywhere', $q$
      SELECT c.oid::regclass::text FROM migration.own_relations() o JOIN pg_catalog.pg_class c ON c.oid = o.oid
      WHERE c.relkind IN ('r', 'p') AND NOT c.relrowsecurity
      UNION ALL SELECT 'role ' || r.rolname FROM pg_catalog.pg_roles r
      WHERE r.rolname IN ('anon', 'authenticated') AND (r.rolbypassrls OR r.rolsuper)$q$));
END $$;

-- Rows that are merged into a survivor to which no chain of pairs of these statuses leads within its cluster. Clusters of
-- which somebody decided a pair since the last complete run are left out: the next run decides about them anew.
CREATE FUNCTION migration.unconnected(p_entity text, p_statuses text[]) RETURNS TABLE (legacy_id text)
LANGUAGE sql STABLE SET search_path = '' AS $$
  WITH RECURSIVE members AS MATERIALIZED (
    SELECT m.legacy_id, m.survivor_id AS cluster FROM migration.id_map m
    WHERE m.entity = p_entity AND m.state = 'merged'
    UNION ALL SELECT s.legacy_id, s.target_id FROM migration.id_map s WHERE s.entity = p_entity
      AND s.target_id IN (SELECT m.survivor_id FROM migration.id_map m WHERE m.entity = p_entity AND m.state = 'merged')),
  links AS MATERIALIZED (
    SELECT l.cluster, l.legacy_id AS one, r.legacy_id AS other
    FROM migration.duplicate_pairs d JOIN members l ON l.legacy_id = d.left_legacy_id
    JOIN members r ON r.legacy_id = d.right_legacy_id AND r.cluster = l.cluster
    WHERE d.entity = p_entity AND d.status = ANY (p_statuses)),
  reached AS (
    SELECT m.cluster, m.legacy_id FROM members m JOIN migration.id_map s ON s.entity = p_entity
      AND s.legacy_id = m.legacy_id AND s.target_id = m.cluster
    UNION
    SELECT r.cluster, e.next FROM reached r JOIN (
      SELECT l.cluster, l.one, l.other AS next FROM links l UNION ALL SELECT l.cluster, l.other, l.one FROM links l) e
      ON e.cluster = r.cluster AND e.one = r.legacy_id)
  SELECT m.legacy_id FROM members m
  WHERE NOT EXISTS (SELECT FROM reached r WHERE r.cluster = m.cluster AND r.legacy_id = m.legacy_id)
    AND m.cluster NOT IN (SELECT o.cluster FROM migration.duplicate_pairs d
      JOIN members o ON o.legacy_id IN (d.left_legacy_id, d.right_legacy_id)
      WHERE d.entity = p_entity AND d.reviewed_at >= migration.complete_since())
$$;

-- Level 4: merges. Id map, merges in force and the rows themselves say the same; survivors are there; pairs that were
-- found or confirmed lead from each merged row to its survivor, and no rejected pair is within one cluster.
CREATE FUNCTION migration.check_merges(p_entity text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  RETURN jsonb_build_array(
    migration.check_none('merges_recorded', format(
      'SELECT m.legacy_id FROM migration.id_map m LEFT JOIN public.%1$I t ON t.id = m.target_id
       LEFT JOIN migration.merges g ON g.merged_id = m.target_id AND g.undone_at IS NULL
       LEFT JOIN public.%1$I s ON s.id = m.survivor_id
       WHERE m.entity = %2$L AND (
         m.state = ''merged'' AND (g.entity, g.survivor_id) IS DISTINCT FROM (m.entity, m.survivor_id)
         OR m.state <> ''merged'' AND g.merged_id IS NOT NULL
         OR m.state IN (''live'', ''merged'') AND t.merged_into IS DISTINCT FROM m.survivor_id
         OR m.state = ''merged'' AND (s.id IS NULL OR s.deleted_at IS NOT NULL OR s.merged_into IS NOT NULL))
       UNION SELECT g.merged_id::text FROM migration.merges g WHERE g.entity = %2$L AND g.undone_at IS NULL
         AND NOT EXISTS (SELECT FROM migration.id_map m WHERE m.entity = g.entity AND m.target_id = g.merged_id)',
      p_entity, p_entity)),
    migration.check_none('merges_justified', format(
      'SELECT u.legacy_id FROM migration.unconnected(%1$L, ''{auto_merged,confirmed,pending}'') u
       UNION SELECT d.right_legacy_id FROM migration.duplicate_pairs d
         JOIN migration.id_map l ON l.entity = d.entity AND l.legacy_id = d.left_legacy_id
         JOIN migration.id_map r ON r.entity = d.entity AND r.legacy_id = d.right_legacy_id
       WHERE d.entity = %1$L AND d.status = ''rejected'' AND d.reviewed_at < migration.complete_since()
         AND l.state IN (''live'', ''merged'') AND r.state IN (''live'', ''merged'')
         AND coalesce(l.survivor_id, l.target_id) = coalesce(r.survivor_id, r.target_id)', p_entity)),
    -- Average linkage may join two rows that blocking has never put side by side, through one that stays apart.
    migration.check_none('merges_by_pairs', format(
      'SELECT u.legacy_id FROM migration.unconnected(%L, ''{auto_merged,confirmed}'') u', p_entity), 'warn'));
END $$;

-- Level 4: a reference that is stored otherwise than the source has it is so for a reason that still holds: it leads to
-- the survivor of what it refers to, or that is not there. Rows that are gone have none. Whether the row still holds what
-- was stored is asked on level 3.
CREATE FUNCTION migration.check_redirects(p_entity text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  ref record;
  offending text := format('SELECT d.legacy_id FROM migration.redirects d WHERE d.entity = %L AND d."column" NOT IN (
      SELECT r.name FROM migration.entities e CROSS JOIN LATERAL jsonb_to_recordset(e.refs) AS r (name text)
      WHERE e.entity = d.entity)', p_entity);
BEGIN
  FOR ref IN SELECT r.name, r.entity FROM migration.entities e
      CROSS JOIN LATERAL jsonb_to_recordset(e.refs) AS r (name text, entity text) WHERE e.entity = p_entity LOOP
    offending := offending || format(
      ' UNION SELECT d.legacy_id FROM migration.redirects d
        LEFT JOIN migration.id_map m ON m.entity = d.entity AND m.legacy_id = d.legacy_id
          AND m.state IN (''live'', ''merged'')
        LEFT JOIN public.%1$I t ON t.id = m.target_id AND t.deleted_at IS NULL
        LEFT JOIN migration.id_map o ON o.entity = %2$L AND o.target_id = d.original_id AND o.state = ''merged''
        LEFT JOIN public.%3$I p ON p.id = coalesce(o.survivor_id, d.original_id) AND p.deleted_at IS NULL
        WHERE d.entity = %4$L AND d."column" = %5$L
          AND (t.id IS NULL OR p.id = d.original_id OR d.stored_id IS DISTINCT FROM p.id)',
      p_entity, ref.entity, ref.entity, p_entity, ref.name);
  END LOOP;
  RETURN jsonb_build_array(migration.check_none('redirects_settled', offending));
END $$;

-- Level 4: what unique constraints promised on deployment, asked of the rows; a row with a NULL is equal to none.
CREATE FUNCTION migration.check_unique(p_entity text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  promise record;
  offending text := 'SELECT NULL::text WHERE false';
BEGIN
  FOR promise IN
    SELECT replace((regexp_match(o.definition, '\(([^)]*)\)'))[1], ' WITH =', '') AS columns,
      CASE WHEN o.definition LIKE '%WHERE ((deleted_at IS NULL))%' THEN 't.deleted_at IS NULL' ELSE 'true' END AS rows
    FROM migration.schema_objects o WHERE o.kind = 'constraint' AND o.object = format('public.%I', p_entity)
      AND o.definition ~ '^(PRIMARY KEY|UNIQUE|EXCLUDE USING btree) '
  LOOP
    offending := offending || format(
      ' UNION ALL SELECT coalesce(m.legacy_id, t.id::text) FROM (
          SELECT %1$s FROM public.%2$I t WHERE %3$s AND (%1$s) IS NOT NULL GROUP BY %1$s HAVING count(*) > 1 OFFSET 0) d
        JOIN public.%2$I t USING (%1$s) LEFT JOIN migration.id_map m ON m.entity = %4$L AND m.target_id = t.id
        WHERE %3$s', promise.columns, p_entity, promise.rows, p_entity);
  END LOOP;
  RETURN jsonb_build_array(migration.check_none('values_unique', offending));
END $$;

-- Level 4: the records behind the rows of an entity.
CREATE FUNCTION migration_api.check_records(p_entity text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '10min' AS $$
BEGIN
  RETURN CASE WHEN migration.may_merge(p_entity) THEN migration.check_merges(p_entity) ELSE '[]' END
    || migration.check_redirects(p_entity)
    || migration.check_unique(p_entity)
    || jsonb_build_array(
      -- Rows that are refused say why.
      migration.check_none('quarantine_explained', format(
        'SELECT m.legacy_id FROM migration.id_map m WHERE m.entity = %L AND m.state = ''quarantined'' AND NOT EXISTS (
           SELECT FROM migration.quarantine q WHERE q.entity = m.entity AND q.legacy_id = m.legacy_id
             AND q.status <> ''re-driven'')', p_entity)));
END $$;

-- Legacy ids and target ids, to be computed anew.
CREATE FUNCTION migration_api.mapped_ids(p_entity text, p_after text, p_most bigint)
RETURNS TABLE (legacy_id text, target_id text)
LANGUAGE sql STABLE SET search_path = '' SET statement_timeout = '10min' AS $$
  SELECT m.legacy_id, m.target_id::text FROM migration.id_map m
  WHERE m.entity = p_entity AND (p_after IS NULL OR m.legacy_id > p_after) ORDER BY m.legacy_id LIMIT p_most
$$;

-- Level 4: vectors by themselves, and against the contents that searches go by.
CREATE FUNCTION migration_api.check_vectors(p_entity text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '10min' AS $$
DECLARE
  place record;
  owners text;
BEGIN
  SELECT v.* INTO STRICT place FROM migration.vector_tables() v WHERE v.parent = p_entity;
  owners := format('SELECT coalesce(m.legacy_id, v.%1$I::text) FROM public.%2$I v
    LEFT JOIN migration.id_map m ON m.entity = %3$L AND m.target_id = v.%1$I', place.owner, place.vectors, p_entity);
  RETURN jsonb_build_array(
    migration.check_none('vectors_well_formed', owners || ' WHERE v.dimensions <> extensions.vector_dims(v.embedding)
      OR v.dimensions <> migration.vector_dimensions() OR extensions.vector_norm(v.embedding) = 0'),
    -- Half precision, and a provider that answers the same text a little otherwise, move a vector by less.
    migration.check_none('vectors_as_indexed', owners || format(
      ' LEFT JOIN migration.%I c ON c.content_hash = v.content_hash
        WHERE CASE WHEN c.content_hash IS NULL THEN to_regclass(%L) IS NOT NULL
          ELSE (v.embedding::extensions.halfvec OPERATOR(extensions.<=>) c.embedding) > 0.001 END',
      place.contents, 'migration.' || place.contents || '_hnsw')));
END $$;

-- Of incoming_documents (legacy_id, id, hash, text_digest: MD5; NULLs of a row without a text), legacy ids of those whose
-- vector is of another text: outdated where the row, or one it refers to, was written since p_since.
CREATE FUNCTION migration_api.vectors_of_other_texts(p_entity text, p_since text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '10min' AS $$
DECLARE
  vectors jsonb;
  result jsonb;
BEGIN
  SELECT e.vectors INTO STRICT vectors FROM migration.entities e WHERE e.entity = p_entity;
  EXECUTE format('WITH other AS MATERIALIZED (
      SELECT d.legacy_id FROM pg_temp.incoming_documents d
      JOIN public.%1$I v ON v.%2$I = d.id::uuid AND v.content_type::text = $1
      WHERE v.content_hash IS DISTINCT FROM d.hash OR md5(v.content_text) <> d.text_digest),
    written AS MATERIALIZED (
      SELECT m.legacy_id FROM %3$s AND m.legacy_id IN (SELECT o.legacy_id FROM other o))
    SELECT jsonb_build_object(
      ''wrong'', (SELECT coalesce(jsonb_agg(o.legacy_id), ''[]'') FROM other o WHERE NOT (
        $2 IS NULL OR o.legacy_id IN (SELECT w.legacy_id FROM written w))),
      ''outdated'', (SELECT coalesce(jsonb_agg(o.legacy_id), ''[]'') FROM other o WHERE
        $2 IS NULL OR o.legacy_id IN (SELECT w.legacy_id FROM written w)))',
    vectors ->> 'table', vectors ->> 'owner', migration.documented(p_entity, NULL, NULL, p_since))
  INTO result USING vectors ->> 'content_type', p_since;
  RETURN result;
END $$;

-- Level 4: the manifest of files against the rows: each live row has one entry, of its own key, and shows what it says.
CREATE FUNCTION migration_api.check_files(p_entity text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '10min' AS $$
BEGIN
  -- Nothing was ever planned.
  IF NOT EXISTS (SELECT FROM migration.files f WHERE f.entity = p_entity) THEN
    RETURN '[]';
  END IF;
  RETURN jsonb_build_array(
    migration.check_none('files_listed', format(
      'SELECT coalesce(m.legacy_id, f.legacy_id) FROM (
         SELECT m.legacy_id, t.* FROM public.%I t JOIN migration.id_map m ON m.entity = %L AND m.target_id = t.id
           AND m.state = ''live'' WHERE t.deleted_at IS NULL) m
       FULL JOIN (SELECT f.* FROM migration.files f WHERE f.entity = %L AND f.withdrawn_at IS NULL) f
         ON f.legacy_id = m.legacy_id
       WHERE (f.target_id, f.bucket, f.object_key)
         IS DISTINCT FROM (m.id, m.storage_bucket, CASE WHEN m.id IS NOT NULL THEN coalesce(m.storage_path, '''') END)',
      p_entity, p_entity, p_entity)),
    migration.check_none('files_shown', format(
      'SELECT f.legacy_id FROM migration.files f JOIN public.%I t ON t.id = f.target_id
       WHERE f.entity = %L AND f.withdrawn_at IS NULL
         AND (t.storage_status::text, t.checksum, t.mime_type) IS DISTINCT FROM (f.status, f.checksum, f.mime_type)',
      p_entity, p_entity)));
END $$;

-- Files that Storage is said to hold; those that p_run copied, NULL: all.
CREATE FUNCTION migration_api.stored_files(p_entity text, p_run text, p_after text, p_most bigint)
RETURNS TABLE (legacy_id text, bucket text, object_key text, size text, checksum text)
LANGUAGE sql STABLE SET search_path = '' SET statement_timeout = '10min' AS $$
  SELECT f.legacy_id, f.bucket, f.object_key, f.size::text, f.checksum FROM migration.files f
  WHERE f.entity = p_entity AND f.withdrawn_at IS NULL AND f.checksum IS NOT NULL
    AND f.status IN ('copied', 'verified') AND (p_run IS NULL OR f.run_id = p_run)
    AND (p_after IS NULL OR f.legacy_id > p_after)
  ORDER BY f.legacy_id LIMIT p_most
$$;

-- Level 5. Rows that were looked at side by side, masked (include/core/samples.py): {name, source, target, how}, how it
-- differs; NULL: it does not.
CREATE TABLE migration.samples (
  run_id text NOT NULL,
  entity text NOT NULL,
  legacy_id text COLLATE "C" NOT NULL,
  -- compared, or why not: changed since it was loaded, gone from the source.
  outcome text NOT NULL CHECK (outcome IN ('equal', 'differs', 'changed', 'gone')),
  columns jsonb NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (run_id, entity, legacy_id)
);
ALTER TABLE migration.samples ENABLE ROW LEVEL SECURITY;

-- Legacy ids of p_rows rows that are there, by chance; the same for the same run.
CREATE FUNCTION migration_api.sample_keys(p_run text, p_entity text, p_rows bigint) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' SET statement_timeout = '10min' AS $$
  SELECT coalesce(jsonb_agg(k.legacy_id ORDER BY k.place), '[]') FROM (
    SELECT m.legacy_id, row_number() OVER (ORDER BY hashtextextended(m.legacy_id, hashtextextended(p_run, 0))) AS place
    FROM migration.id_map m WHERE m.entity = p_entity AND m.state IN ('live', 'merged')
    ORDER BY hashtextextended(m.legacy_id, hashtextextended(p_run, 0)) LIMIT p_rows) k
$$;

-- Types of an entity's columns.
CREATE FUNCTION migration.column_types(p_entity text) RETURNS TABLE (name text, type text, is_enum boolean)
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), t.typtype = 'e'
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  WHERE a.attrelid = to_regclass(format('public.%I', p_entity)) AND a.attnum > 0 AND NOT a.attisdropped
$$;

-- The source's rows of incoming_rows (as they would be loaded), side by side with the target's: what each has itself, and
-- references as the source has them. An array of {legacy_id, changed (itself, or the rules, since it was loaded), columns:
-- [{name, type, source, target}]}; merged_into is no value of the source. p_versions: {mapping, rules} of now.
CREATE FUNCTION migration_api.side_by_side(p_entity text, p_versions jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = '' SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET statement_timeout = '2min' AS $$
DECLARE
  members text;
  result jsonb;
BEGIN
  SELECT string_agg(format('jsonb_build_object(''name'', %1$L, ''type'', %2$L,
      ''source'', CASE WHEN NOT m.changed THEN (m.%1$I::%3$s)::text END, ''target'', (%4$s)::text)', n.name,
      CASE WHEN y.is_enum THEN 'enum' ELSE y.type END, y.type, migration.source_value(p_entity, n.name, true)),
      ', ' ORDER BY n.place) INTO members
  FROM migration.entities e CROSS JOIN LATERAL unnest(e.columns) WITH ORDINALITY AS n (name, place)
  JOIN migration.column_types(p_entity) y ON y.name = n.name
  WHERE e.entity = p_entity AND n.name <> 'merged_into';
  EXECUTE format('WITH compared AS MATERIALIZED (
      SELECT r.*, i.target_id, i.content_hash IS NOT NULL AND (i.source_version, i.mapping_version, i.rules_version)
        IS DISTINCT FROM (r.source_version::uuid, $1 ->> ''mapping'', $1 ->> ''rules'') AS changed
      FROM pg_temp.incoming_rows r JOIN migration.id_map i ON i.entity = %L AND i.legacy_id = r.legacy_id)
    SELECT coalesce(jsonb_agg(jsonb_build_object(''legacy_id'', m.legacy_id, ''changed'', m.changed,
      ''columns'', jsonb_build_array(%s))), ''[]'')
    FROM compared m LEFT JOIN public.%I t ON t.id = m.target_id AND t.deleted_at IS NULL%s',
    p_entity, members, p_entity, migration.redirect_joins(p_entity))
  INTO result USING p_versions;
  RETURN result;
END $$;

-- Keeps incoming_samples (legacy_id, outcome, columns) in place of those that the run kept before.
CREATE FUNCTION migration_api.record_samples(p_run text, p_entity text) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  DELETE FROM migration.samples s WHERE s.run_id = p_run AND s.entity = p_entity;
  INSERT INTO migration.samples (run_id, entity, legacy_id, outcome, columns)
  SELECT p_run, p_entity, i.legacy_id, i.outcome, i.columns::jsonb FROM pg_temp.incoming_samples i;
END $$;

CREATE FUNCTION migration_api.samples(p_run text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT coalesce(jsonb_agg(to_jsonb(s) - 'run_id' - 'recorded_at'
    ORDER BY s.outcome <> 'differs', s.entity, length(s.legacy_id), s.legacy_id), '[]')
  FROM migration.samples s WHERE s.run_id = p_run
$$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0019_integrity.sql');
