-- The review queue as a page shows it: pairs of one status in an order, a page at a time; one pair with all that helps
-- to decide; a decision, and its undoing. Made for tens of thousands of pairs: each is read by an index.

-- The orders of a page, in either direction; a pair that no run has found has no score and counts as the least likely.
CREATE INDEX duplicate_pairs_likely ON migration.duplicate_pairs
  (entity, status, coalesce(score, 0), left_legacy_id, right_legacy_id);
CREATE INDEX duplicate_pairs_doubtful ON migration.duplicate_pairs
  (entity, status, abs(coalesce(score, 0) - 0.5), left_legacy_id, right_legacy_id);
CREATE INDEX duplicate_pairs_asked_again ON migration.duplicate_pairs
  (entity, coalesce(score, 0), left_legacy_id, right_legacy_id) WHERE asked_again_at IS NOT NULL;
CREATE INDEX duplicate_pairs_right ON migration.duplicate_pairs (entity, right_legacy_id);

-- What tells a row from others at a glance; a hostile value cannot make a page long.
CREATE FUNCTION migration.shown_name(p_compared jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  SELECT CASE WHEN p_compared IS NOT NULL THEN jsonb_build_object('first_name', left(p_compared ->> 'first_name', 100),
    'last_name', left(p_compared ->> 'last_name', 100), 'date_of_birth', p_compared ->> 'date_of_birth') END
$$;

CREATE FUNCTION migration.refuse_nameless(p_by text) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  IF coalesce(p_by, '') !~ '\S' THEN
    PERFORM migration.refuse('PARAM_INVALID', 'Who reads names must say who that is.');
  END IF;
END $$;

-- The query of a page of pairs, as text. Its parameters: entity, status, lowest and highest score, a legacy id, the
-- place behind which it begins (position, left id, right id), how many.
CREATE FUNCTION migration.page_of_pairs(p_status text, p_order text, p_by_id boolean, p_goes_on boolean) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  SELECT format('SELECT %1$s AS position, d.* FROM migration.duplicate_pairs d
      WHERE d.entity = $1 AND %2$s AND coalesce(d.score, 0) BETWEEN $3 AND $4%3$s%4$s
      ORDER BY %1$s %5$s, d.left_legacy_id %5$s, d.right_legacy_id %5$s LIMIT $9',
    o.position,
    CASE p_status WHEN 'asked_again' THEN 'd.asked_again_at IS NOT NULL' ELSE 'd.status = $2' END,
    CASE WHEN p_by_id THEN ' AND (d.left_legacy_id = $5 OR d.right_legacy_id = $5)' ELSE '' END,
    CASE WHEN p_goes_on THEN format(' AND (%s, d.left_legacy_id, d.right_legacy_id) %s ($6, $7, $8)', o.position,
      CASE p_order WHEN 'likely' THEN '<' ELSE '>' END) ELSE '' END,
    CASE p_order WHEN 'likely' THEN 'DESC' ELSE 'ASC' END)
  FROM (VALUES (CASE p_order WHEN 'doubtful' THEN 'abs(coalesce(d.score, 0) - 0.5)' ELSE 'coalesce(d.score, 0)' END))
    AS o (position)
$$;

-- {counts: as review_counts, pairs, next: p_after of the page behind it, or null}. p_order: likely (the highest score
-- first), unlikely, or doubtful (next to one half). p_id: pairs of that row. Names only with p_with_names, and then it is
-- kept who saw which pairs: p_by.
CREATE FUNCTION migration_api.review_page(p_entity text, p_status text, p_order text, p_lowest double precision,
  p_highest double precision, p_id text, p_after jsonb, p_most bigint, p_with_names boolean, p_by text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET TimeZone = 'UTC' SET statement_timeout = '10s' AS $$
DECLARE
  most constant bigint := least(greatest(p_most, 1), 200);
  pairs jsonb;
  people jsonb := '{}';
BEGIN
  PERFORM migration.refuse_unreviewed(p_entity);
  IF coalesce(p_status, '') NOT IN ('pending', 'asked_again', 'auto_merged', 'confirmed', 'rejected', 'stale')
      OR coalesce(p_order, '') NOT IN ('likely', 'unlikely', 'doubtful') THEN
    PERFORM migration.refuse('PARAM_INVALID', 'A status is pending, asked_again, auto_merged, confirmed, rejected or '
      'stale; an order is likely, unlikely or doubtful.');
  END IF;
  EXECUTE format('SELECT coalesce(jsonb_agg(jsonb_build_object(''position'', q.position, ''left'', q.left_legacy_id,
        ''right'', q.right_legacy_id, ''score'', q.score, ''status'', q.status, ''asked_again_at'', q.asked_again_at,
        ''decided_by'', q.decided_by, ''decided_at'', q.decided_at)), ''[]'') FROM (%s) q',
    migration.page_of_pairs(p_status, p_order, p_id IS NOT NULL, p_after IS NOT NULL))
  INTO pairs USING p_entity, p_status, coalesce(p_lowest, 0), coalesce(p_highest, 1), p_id,
    (p_after ->> 'position')::double precision, p_after ->> 'left', p_after ->> 'right', most;
  IF p_with_names AND pairs <> '[]' THEN
    PERFORM migration.refuse_nameless(p_by);
    SELECT jsonb_object_agg(v.legacy_id, migration.shown_name(v.compared)) INTO people
    FROM migration.compared_values(p_entity, ARRAY(SELECT DISTINCT u FROM jsonb_array_elements(pairs) AS p (pair)
      CROSS JOIN unnest(ARRAY[p.pair ->> 'left', p.pair ->> 'right']) AS u)) v;
    INSERT INTO migration.audit_log (event, details) VALUES ('names read', jsonb_build_object('entity', p_entity,
      'by', p_by, 'pairs', jsonb_array_length(pairs), 'ids', (SELECT jsonb_agg((p.pair ->> 'left') || ' '
        || (p.pair ->> 'right') ORDER BY p.place) FROM jsonb_array_elements(pairs) WITH ORDINALITY AS p (pair, place))));
  END IF;
  RETURN jsonb_build_object('counts', migration_api.review_counts(p_entity),
    'pairs', (SELECT coalesce(jsonb_agg(p.pair - 'position' || CASE WHEN p_with_names THEN jsonb_build_object(
        'left_name', people -> (p.pair ->> 'left'), 'right_name', people -> (p.pair ->> 'right')) ELSE '{}' END
      ORDER BY p.place), '[]') FROM jsonb_array_elements(pairs) WITH ORDINALITY AS p (pair, place)),
    'next', CASE WHEN jsonb_array_length(pairs) = most THEN (SELECT jsonb_build_object('position',
        p.pair -> 'position', 'left', p.pair -> 'left', 'right', p.pair -> 'right') FROM (SELECT pairs -> -1 AS pair) p) END);
END $$;

-- Cases and projects of patients as the source has them, whatever merges made of them.
CREATE FUNCTION migration.work_of_patients(p_ids uuid[]) RETURNS TABLE (id uuid, cases bigint, projects bigint)
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH led AS MATERIALIZED (
    SELECT m.target_id AS case_id, r.original_id FROM migration.redirects r
    JOIN migration.id_map m ON m.entity = r.entity AND m.legacy_id = r.legacy_id
    WHERE r.entity = 'cases' AND r."column" = 'patient_id'
      AND (r.original_id = ANY (p_ids) OR r.stored_id = ANY (p_ids))),
  own AS (
    SELECT c.patient_id AS id, c.id AS case_id FROM public.cases c
    WHERE c.patient_id = ANY (p_ids) AND c.deleted_at IS NULL AND c.id NOT IN (SELECT l.case_id FROM led l)
    UNION ALL
    SELECT l.original_id, c.id FROM led l JOIN public.cases c ON c.id = l.case_id WHERE c.deleted_at IS NULL)
  SELECT i.id, count(DISTINCT o.case_id), count(p.id) FROM unnest(p_ids) AS i (id)
  LEFT JOIN own o ON o.id = i.id
  LEFT JOIN public.projects p ON p.case_id = o.case_id AND p.deleted_at IS NULL
  GROUP BY i.id;
END $$;

-- What a person calls the row that a column refers to; NULL: it does not refer, or is not there.
CREATE FUNCTION migration.shown_reference(p_entity text, p_column text, p_value text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
  parent constant text := (SELECT r.entity FROM migration.entities e
    CROSS JOIN LATERAL jsonb_to_recordset(e.refs) AS r (name text, entity text)
    WHERE e.entity = p_entity AND r.name = p_column);
  label text;
BEGIN
  IF parent IS NOT NULL AND p_value IS NOT NULL THEN
    EXECUTE format('SELECT coalesce(n.own ->> ''name'', nullif(concat_ws('' '', n.own ->> ''first_name'',
        n.own ->> ''last_name''), ''''), n.own ->> ''username'')
      FROM (SELECT to_jsonb(t) AS own FROM public.%I t WHERE t.id = $1::uuid) n', parent) INTO label USING p_value;
  END IF;
  RETURN label;
END $$;

-- A row of a pair as a page shows it: {legacy_id, state, values: what is compared, names: of what it refers to, beside:
-- what is not compared, cases, projects}; values are null where it is not there any more.
CREATE FUNCTION migration.shown_row(p_entity text, p_legacy_id text, p_compared jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = '' SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' AS $$
DECLARE
  entry migration.id_map;
  beside jsonb := '{}';
  work jsonb := '{}';
BEGIN
  SELECT * INTO entry FROM migration.id_map m WHERE m.entity = p_entity AND m.legacy_id = p_legacy_id;
  IF p_compared IS NOT NULL THEN
    EXECUTE format('SELECT coalesce(jsonb_object_agg(v.key, v.value), ''{}'') FROM public.%I t
        CROSS JOIN LATERAL jsonb_each_text(to_jsonb(t)) v
        WHERE t.id = $1 AND v.key IN (''patient_number'', ''archived'', ''created_at'')', p_entity)
      INTO beside USING entry.target_id;
    IF p_entity = 'patients' THEN
      SELECT jsonb_build_object('cases', w.cases, 'projects', w.projects) INTO work
      FROM migration.work_of_patients(ARRAY[entry.target_id]) w;
    END IF;
  END IF;
  RETURN work || jsonb_build_object('legacy_id', p_legacy_id, 'state', coalesce(entry.state, 'unknown'),
    'values', p_compared - 'legacy_id', 'beside', beside,
    'names', (SELECT coalesce(jsonb_object_agg(n.key, n.label), '{}') FROM (
      SELECT v.key, migration.shown_reference(p_entity, v.key, v.value) AS label FROM jsonb_each_text(p_compared) v) n
      WHERE n.label IS NOT NULL));
END $$;

-- Rows that are merged with either row of a pair, and their survivors, as an array of {legacy_id, survivor: legacy id,
-- NULL for the survivor itself, merged_at, name}.
CREATE FUNCTION migration.shown_merges(p_entity text, p_pair text[]) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
  members jsonb;
BEGIN
  EXECUTE format('
    WITH survivors AS MATERIALIZED (SELECT DISTINCT coalesce(m.survivor_id, m.target_id) AS id FROM migration.id_map m
      WHERE m.entity = $1 AND m.legacy_id = ANY ($2) AND m.state IN (''live'', ''merged'')),
    merged AS MATERIALIZED (SELECT t.id, t.merged_into, t.%1$I::text AS legacy_id FROM public.%2$I t
      WHERE t.merged_into = ANY (ARRAY(SELECT s.id FROM survivors s)) AND t.deleted_at IS NULL)
    SELECT jsonb_agg(jsonb_build_object(''legacy_id'', c.legacy_id, ''survivor'', c.survivor, ''merged_at'', c.merged_at)
      ORDER BY length(c.key), c.key, c.survivor IS NOT NULL, length(c.legacy_id), c.legacy_id)
    FROM (SELECT t.%1$I::text AS legacy_id, NULL AS survivor, NULL AS merged_at, t.%1$I::text AS key
        FROM public.%2$I t WHERE t.id IN (SELECT g.merged_into FROM merged g)
      UNION ALL
      SELECT g.legacy_id, t.%1$I::text, m.merged_at::text, t.%1$I::text FROM merged g
      JOIN public.%2$I t ON t.id = g.merged_into
      LEFT JOIN migration.merges m ON m.merged_id = g.id AND m.undone_at IS NULL) c',
    (SELECT e.columns[1] FROM migration.entities e WHERE e.entity = p_entity), p_entity)
  INTO members USING p_entity, p_pair;
  RETURN (SELECT coalesce(jsonb_agg(m.member || jsonb_build_object('name', migration.shown_name(v.compared))
      ORDER BY m.place), '[]')
    FROM jsonb_array_elements(members) WITH ORDINALITY AS m (member, place)
    LEFT JOIN migration.compared_values(p_entity, ARRAY(SELECT e ->> 'legacy_id' FROM jsonb_array_elements(members) e)) v
      ON v.legacy_id = m.member ->> 'legacy_id');
END $$;

-- When a pair was decided last, or a decision taken back: who decides says by it what was shown.
CREATE FUNCTION migration.reviewed(p_pair migration.duplicate_pairs) RETURNS text
LANGUAGE sql STABLE SET search_path = '' SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' AS $$
  SELECT coalesce(p_pair.reviewed_at::text, '')
$$;

-- One pair with both rows, what merges made of them, and what it takes to decide: {left, right, score, explanation, status,
-- asked_again_at, decided_by, decided_at, decision_reason, seen, reviewed, rows: [left, right], merges}. It is kept who
-- looked: p_by.
CREATE FUNCTION migration_api.review_pair(p_entity text, p_left text, p_right text, p_by text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET TimeZone = 'UTC' SET statement_timeout = '10s' AS $$
DECLARE
  ids constant text[] := migration.pair_of(p_left, p_right);
  pair migration.duplicate_pairs;
  people jsonb;
BEGIN
  PERFORM migration.refuse_unreviewed(p_entity);
  PERFORM migration.refuse_nameless(p_by);
  SELECT * INTO pair FROM migration.duplicate_pairs d
  WHERE d.entity = p_entity AND d.left_legacy_id = ids[1] AND d.right_legacy_id = ids[2];
  IF pair.entity IS NULL THEN
    PERFORM migration.refuse('REVIEW_PAIR_UNKNOWN', 'Never found as a pair.');
  END IF;
  SELECT coalesce(jsonb_object_agg(v.legacy_id, v.compared), '{}') INTO people
  FROM migration.compared_values(p_entity, ids) v;
  INSERT INTO migration.audit_log (event, details) VALUES ('names read', jsonb_build_object('entity', p_entity,
    'by', p_by, 'pairs', 1, 'ids', jsonb_build_array(ids[1] || ' ' || ids[2])));
  RETURN jsonb_build_object('left', ids[1], 'right', ids[2], 'score', pair.score, 'explanation', pair.explanation,
    'status', pair.status, 'asked_again_at', pair.asked_again_at, 'decided_by', pair.decided_by,
    'decided_at', pair.decided_at, 'decision_reason', pair.decision_reason, 'reviewed', migration.reviewed(pair),
    'seen', CASE WHEN people ?& ids THEN migration.seen(migration.compared_hash(people -> ids[1]),
      migration.compared_hash(people -> ids[2])) END,
    'rows', (SELECT jsonb_agg(migration.shown_row(p_entity, i.id, people -> i.id) ORDER BY i.place)
      FROM unnest(ids) WITH ORDINALITY AS i (id, place)),
    'merges', migration.shown_merges(p_entity, ids));
END $$;

-- Decides one pair as it was shown: p_seen and p_reviewed as review_pair gave them. Refused where a row changed since, or
-- somebody else decided. Returns {changed: false where it was known already, counts}.
CREATE FUNCTION migration_api.decide_shown(p_entity text, p_left text, p_right text, p_decision text, p_by text,
  p_reason text, p_seen text, p_reviewed text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '30s' SET lock_timeout = '5s' AS $$
DECLARE
  ids constant text[] := migration.pair_of(p_left, p_right);
  kept jsonb;
BEGIN
  PERFORM migration.refuse('REVIEW_PAIR_CHANGED', format('Pair %s and %s was decided since it was shown.', ids[1], ids[2]))
  FROM (SELECT d FROM migration.duplicate_pairs d
    WHERE d.entity = p_entity AND d.left_legacy_id = ids[1] AND d.right_legacy_id = ids[2] FOR UPDATE) q (pair)
  WHERE migration.reviewed(q.pair) <> coalesce(p_reviewed, '');
  kept := migration_api.decide_pair(p_entity, p_left, p_right, p_decision, p_by, p_reason, p_seen);
  RETURN jsonb_build_object('changed', kept -> 'unchanged' = '0', 'counts', migration_api.review_counts(p_entity));
END $$;

-- Takes the last decision on a pair back, as if it had not been made: what was decided before holds again. For who made it
-- alone, and once. Returns {status, counts}.
CREATE FUNCTION migration_api.undo_decision(p_entity text, p_left text, p_right text, p_by text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '30s' SET lock_timeout = '5s' AS $$
DECLARE
  ids constant text[] := migration.pair_of(p_left, p_right);
  former migration.former_decisions;
BEGIN
  PERFORM migration.refuse_unreviewed(p_entity);
  PERFORM FROM migration.duplicate_pairs d
  WHERE d.entity = p_entity AND d.left_legacy_id = ids[1] AND d.right_legacy_id = ids[2] FOR UPDATE;
  DELETE FROM migration.former_decisions f USING migration.duplicate_pairs d
  WHERE f.entity = p_entity AND f.left_legacy_id = ids[1] AND f.right_legacy_id = ids[2] AND f.replaced_by = p_by
    AND d.entity = f.entity AND d.left_legacy_id = f.left_legacy_id AND d.right_legacy_id = f.right_legacy_id
    AND d.reviewed_at = f.replaced_at
  RETURNING f.* INTO former;
  IF former.entity IS NULL THEN
    PERFORM migration.refuse('REVIEW_NOTHING_TO_UNDO', format('Pair %s and %s.', ids[1], ids[2]));
  END IF;
  INSERT INTO migration.audit_log (event, details)
  SELECT 'pair decision undone', jsonb_build_object('entity', p_entity, 'left', ids[1], 'right', ids[2], 'by', p_by,
    'before', d.status, 'after', former.status)
  FROM migration.duplicate_pairs d
  WHERE d.entity = p_entity AND d.left_legacy_id = ids[1] AND d.right_legacy_id = ids[2];
  UPDATE migration.duplicate_pairs d SET status = former.status, decided_by = former.decided_by,
    decided_at = former.decided_at, decision_reason = former.decision_reason, left_hash = former.left_hash,
    right_hash = former.right_hash, asked_again_at = former.asked_again_at, reviewed_at = now()
  WHERE d.entity = p_entity AND d.left_legacy_id = ids[1] AND d.right_legacy_id = ids[2];
  RETURN jsonb_build_object('status', former.status, 'counts', migration_api.review_counts(p_entity));
END $$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0021_review_page.sql');
