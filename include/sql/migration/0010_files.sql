-- Files that go with rows: which object of Supabase Storage each live row's file becomes, and what is known of it.
-- public.<entity> shows users the state; here is what the copying needs. Objects are never deleted by the migration:
-- a row that is gone leaves its entry withdrawn, and its object where it is.
CREATE TABLE migration.files (
  entity text NOT NULL,
  legacy_id text COLLATE "C" NOT NULL,
  bucket text NOT NULL,
  -- Empty where the row has no uid, and so no key.
  object_key text NOT NULL,
  target_id uuid NOT NULL,
  uid uuid,
  -- As the legacy row says; the other size is of what is stored.
  expected_size bigint,
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'copied', 'verified', 'missing')),
  source_path text,
  source_fingerprint text,
  size bigint,
  mime_type text,
  checksum text CHECK (checksum ~ '^[0-9a-f]{64}$'),
  finding text REFERENCES migration.finding_kinds,
  -- A resumable upload under way, and the source file it was begun with.
  upload_id text,
  upload_fingerprint text,
  run_id text NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now(),
  withdrawn_at timestamptz,
  PRIMARY KEY (entity, legacy_id, bucket, object_key),
  CHECK (status <> 'verified' OR (checksum IS NOT NULL AND size IS NOT NULL))
);
CREATE UNIQUE INDEX files_planned ON migration.files (entity, legacy_id) WHERE withdrawn_at IS NULL;
CREATE INDEX files_finding ON migration.files (finding) WHERE finding IS NOT NULL;
ALTER TABLE migration.files ENABLE ROW LEVEL SECURITY;

-- Carries what the manifest says over to the rows that users read, and to the findings. All rows of an entity, or
-- those with p_ids.
CREATE FUNCTION migration.show_files(p_run text, p_entity text, p_ids text[]) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  -- An array is looked up by key, whatever the statistics say of tables that grow while files are copied; findings are
  -- compared so that no index of them can be taken for it.
  chosen text := CASE WHEN p_ids IS NULL THEN '' ELSE 'AND %s.legacy_id = ANY ($3)' END;
  chosen_files text := format(chosen, 'f');
BEGIN
  EXECUTE format(
    'UPDATE public.%I t SET storage_status = f.status::public.storage_status, checksum = f.checksum,
       mime_type = f.mime_type
     FROM migration.files f
     WHERE f.entity = $1 AND f.withdrawn_at IS NULL AND f.target_id = t.id %s
       AND (t.storage_status::text, t.checksum, t.mime_type) IS DISTINCT FROM (f.status, f.checksum, f.mime_type)',
    p_entity, chosen_files) USING p_entity, p_run, p_ids;
  EXECUTE format(
    'DELETE FROM migration.findings g
     WHERE g.entity = $1 AND left(g.code, 5) = ''file_'' AND g."column" = ''storage_path'' %s
       AND NOT EXISTS (SELECT 1 FROM migration.files p WHERE p.entity = $1 AND p.legacy_id = g.legacy_id
         AND p.withdrawn_at IS NULL AND p.finding IS NOT DISTINCT FROM g.code)', format(chosen, 'g')) USING p_entity, p_run, p_ids;
  EXECUTE format(
    'INSERT INTO migration.findings (entity, legacy_id, code, "column", run_id)
     SELECT f.entity, f.legacy_id, f.finding, ''storage_path'', $2 FROM migration.files f
     WHERE f.entity = $1 AND f.withdrawn_at IS NULL AND coalesce(f.finding, '''') <> '''' %s ON CONFLICT DO NOTHING',
    chosen_files) USING p_entity, p_run, p_ids;
END $$;

-- Brings the manifest up to date with the live rows of an entity: what is new or has another size is pending, what is
-- gone or has another key is withdrawn. Returns counts.
CREATE FUNCTION migration_api.plan_files(p_run text, p_entity text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET client_min_messages = warning SET statement_timeout = '10min' AS $$
DECLARE
  pending CONSTANT text := 'pending';
  withdrawn bigint;
  added bigint;
  changed bigint;
BEGIN
  PERFORM migration.hold_lock(p_run);
  DROP TABLE IF EXISTS pg_temp.live_files;
  EXECUTE format(
    'CREATE TEMPORARY TABLE live_files ON COMMIT DROP AS
     SELECT m.legacy_id, t.storage_bucket AS bucket, coalesce(t.storage_path, '''') AS object_key, t.id AS target_id,
       t.legacy_uid AS uid, t.file_size AS expected_size
     FROM public.%I t JOIN migration.id_map m ON m.entity = %L AND m.target_id = t.id AND m.state = ''live''
     WHERE t.deleted_at IS NULL', p_entity, p_entity);
  CREATE UNIQUE INDEX ON pg_temp.live_files (legacy_id);
  ANALYZE pg_temp.live_files;

  UPDATE migration.files f SET withdrawn_at = now(), run_id = p_run, updated_at = now()
  WHERE f.entity = p_entity AND f.withdrawn_at IS NULL AND NOT EXISTS (
    SELECT 1 FROM pg_temp.live_files l
    WHERE (l.legacy_id, l.bucket, l.object_key) = (f.legacy_id, f.bucket, f.object_key));
  GET DIAGNOSTICS withdrawn = ROW_COUNT;
  UPDATE migration.files f SET expected_size = l.expected_size, withdrawn_at = NULL, run_id = p_run, updated_at = now(),
    status = CASE WHEN f.expected_size IS NOT DISTINCT FROM l.expected_size THEN f.status ELSE pending END,
    finding = CASE WHEN f.expected_size IS NOT DISTINCT FROM l.expected_size THEN f.finding END
  FROM pg_temp.live_files l
  WHERE f.entity = p_entity AND (l.legacy_id, l.bucket, l.object_key) = (f.legacy_id, f.bucket, f.object_key)
    AND (f.withdrawn_at IS NOT NULL OR f.expected_size IS DISTINCT FROM l.expected_size);
  GET DIAGNOSTICS changed = ROW_COUNT;
  INSERT INTO migration.files (entity, legacy_id, bucket, object_key, target_id, uid, expected_size, run_id)
  SELECT p_entity, l.legacy_id, l.bucket, l.object_key, l.target_id, l.uid, l.expected_size, p_run
  FROM pg_temp.live_files l ON CONFLICT DO NOTHING;
  GET DIAGNOSTICS added = ROW_COUNT;
  DROP TABLE pg_temp.live_files;
  IF added > 0 THEN
    PERFORM migration_api.refresh_statistics(p_entity);
  END IF;

  PERFORM migration.show_files(p_run, p_entity, NULL);
  RETURN jsonb_build_object('added', added, 'changed', changed, 'withdrawn', withdrawn, 'buckets', (
    SELECT coalesce(jsonb_agg(DISTINCT f.bucket), '[]') FROM migration.files f
    WHERE f.entity = p_entity AND f.withdrawn_at IS NULL));
END $$;

-- Cuts what is to be looked at into shares of about p_bytes, at most p_most of them: legacy ids from low up to high.
CREATE FUNCTION migration_api.file_shares(p_entity text, p_recheck boolean, p_bytes bigint, p_shares bigint)
RETURNS jsonb LANGUAGE sql STABLE SET search_path = '' SET statement_timeout = '2min' AS $$
  WITH wanted AS (
    SELECT f.legacy_id, coalesce(f.expected_size, 0) AS bytes,
      -- What a file costs whatever its size.
      sum(coalesce(f.expected_size, 0)::numeric + 262144) OVER (ORDER BY f.legacy_id) AS weight
    FROM migration.files f
    WHERE f.entity = p_entity AND f.withdrawn_at IS NULL AND (p_recheck OR f.status <> 'verified')),
  -- Computed once, not for every row.
  size AS MATERIALIZED (
    SELECT greatest(max(weight), 1) AS total, least(p_shares, ceil(greatest(max(weight), 1) / p_bytes)) AS shares
    FROM wanted),
  cut AS (
    SELECT min(w.legacy_id) AS low, count(*) AS files, sum(w.bytes) AS bytes
    FROM wanted w CROSS JOIN size s GROUP BY ceil(w.weight * s.shares / s.total))
  SELECT coalesce(jsonb_agg(jsonb_build_object('entity', p_entity, 'low', c.low, 'high', c.high, 'files', c.files,
    'bytes', c.bytes) ORDER BY c.low), '[]')
  FROM (SELECT c.*, lead(c.low) OVER (ORDER BY c.low) AS high FROM cut c) c
$$;

-- What is to be copied, or with p_recheck everything, so that changed source files are noticed.
CREATE FUNCTION migration_api.files_to_copy(
  p_entity text, p_low text, p_high text, p_recheck boolean, p_after text, p_most bigint)
RETURNS TABLE (legacy_id text, uid text, bucket text, object_key text, status text, expected_size text, size text,
  checksum text, source_fingerprint text, upload_id text, upload_fingerprint text)
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT f.legacy_id, f.uid::text, f.bucket, f.object_key, f.status, f.expected_size::text, f.size::text, f.checksum,
    f.source_fingerprint, f.upload_id, f.upload_fingerprint
  FROM migration.files f
  WHERE f.entity = p_entity AND f.withdrawn_at IS NULL AND (p_recheck OR f.status <> 'verified')
    AND (p_low IS NULL OR f.legacy_id >= p_low) AND (p_high IS NULL OR f.legacy_id < p_high)
    AND (p_after IS NULL OR f.legacy_id > p_after)
  ORDER BY f.legacy_id LIMIT p_most
$$;

-- Remembers a resumable upload, so that another process can go on with it.
CREATE FUNCTION migration_api.keep_upload(
  p_run text, p_entity text, p_legacy_id text, p_object_key text, p_upload_id text, p_fingerprint text)
RETURNS void LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  PERFORM migration.hold_lock(p_run);
  UPDATE migration.files f SET upload_id = p_upload_id, upload_fingerprint = p_fingerprint, run_id = p_run,
    updated_at = now()
  WHERE f.entity = p_entity AND f.legacy_id = p_legacy_id AND f.object_key = p_object_key AND f.withdrawn_at IS NULL;
END $$;

-- What became of the files in pg_temp.incoming_files. What is not known of a file now stays known from before.
CREATE FUNCTION migration_api.record_files(p_run text, p_entity text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET client_min_messages = warning SET statement_timeout = '10min'
SET enable_seqscan = off AS $$
DECLARE
  ids CONSTANT text[] := ARRAY(SELECT n.legacy_id FROM pg_temp.incoming_files n);
  recorded bigint;
BEGIN
  PERFORM migration.hold_lock(p_run);
  UPDATE migration.files f SET status = n.status, source_path = coalesce(n.source_path, f.source_path),
    source_fingerprint = coalesce(n.source_fingerprint, f.source_fingerprint),
    size = coalesce(n.size::bigint, f.size), mime_type = coalesce(n.mime_type, f.mime_type),
    checksum = coalesce(n.checksum, f.checksum), finding = n.finding, upload_id = NULL, upload_fingerprint = NULL,
    run_id = p_run, updated_at = now()
  FROM pg_temp.incoming_files n
  WHERE f.entity = p_entity AND f.legacy_id = ANY (ids) AND f.legacy_id = n.legacy_id AND f.object_key = n.object_key
    AND f.withdrawn_at IS NULL;
  GET DIAGNOSTICS recorded = ROW_COUNT;
  PERFORM migration.show_files(p_run, p_entity, ids);
  RETURN to_jsonb(recorded);
END $$;

-- Files and bytes by status, findings with some legacy ids, and what was withdrawn.
CREATE FUNCTION migration_api.file_counts(p_entity text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT jsonb_build_object(
    'statuses', (
      SELECT coalesce(jsonb_object_agg(s.status, jsonb_build_object('files', s.files, 'bytes', s.bytes)), '{}')
      FROM (SELECT f.status, count(*) AS files, coalesce(sum(coalesce(f.size, f.expected_size)), 0) AS bytes
        FROM migration.files f WHERE f.entity = p_entity AND f.withdrawn_at IS NULL GROUP BY f.status) s),
    'findings', (
      SELECT coalesce(jsonb_object_agg(s.finding, jsonb_build_object('files', s.files, 'sample', s.sample)), '{}')
      FROM (SELECT f.finding, count(*) AS files, to_jsonb((array_agg(f.legacy_id ORDER BY f.legacy_id))[1:5]) AS sample
        FROM migration.files f
        WHERE f.entity = p_entity AND f.withdrawn_at IS NULL AND f.finding IS NOT NULL GROUP BY f.finding) s),
    'withdrawn', (
      SELECT count(*) FROM migration.files f
      WHERE f.entity = p_entity AND f.withdrawn_at IS NOT NULL AND f.size IS NOT NULL))
$$;

-- The manifest as the report gives it away: no names, for people type patients' names there.
CREATE FUNCTION migration_api.file_manifest(p_entity text, p_after text, p_most bigint)
RETURNS TABLE (legacy_id text, target_id text, uid text, bucket text, object_key text, status text, finding text,
  expected_size text, size text, mime_type text, checksum text, source_path text, run_id text, updated_at text)
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT f.legacy_id, f.target_id::text, f.uid::text, f.bucket, f.object_key, f.status, f.finding,
    f.expected_size::text, f.size::text, f.mime_type, f.checksum, f.source_path, f.run_id, f.updated_at::text
  FROM migration.files f
  WHERE f.entity = p_entity AND f.withdrawn_at IS NULL AND (p_after IS NULL OR f.legacy_id > p_after)
  ORDER BY f.legacy_id LIMIT p_most
$$;

-- The same with the projects' names, for those who may see them.
CREATE FUNCTION migration_api.project_file_manifest(p_after text, p_most bigint)
RETURNS TABLE (legacy_id text, name text, uid text, bucket text, object_key text, status text, finding text,
  expected_size text, size text, mime_type text, checksum text)
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT f.legacy_id, t.name, f.uid::text, f.bucket, f.object_key, f.status, f.finding, f.expected_size::text,
    f.size::text, f.mime_type, f.checksum
  FROM migration.files f JOIN public.projects t ON t.id = f.target_id
  WHERE f.entity = 'projects' AND f.withdrawn_at IS NULL AND (p_after IS NULL OR f.legacy_id > p_after)
  ORDER BY f.legacy_id LIMIT p_most;
END $$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0010_files.sql');
