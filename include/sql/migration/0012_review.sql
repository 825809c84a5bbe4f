-- Pairs of rows that may be the same thing: what a run found, what people decided, and the queue in between.
-- docs/reviewing-duplicates.md is for those who use it.

-- Pages of pairs are read in its order.
CREATE INDEX duplicate_pairs_key ON migration.duplicate_pairs (entity, (left_legacy_id || ' ' || right_legacy_id));

-- The pairs of incoming_pairs as found now. A person's decision stays; undecided pairs that were looked for and are none
-- any more become stale.
CREATE FUNCTION migration.record_pairs(p_run text, p_entity text, p_everyone boolean) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  ANALYZE pg_temp.incoming_pairs, pg_temp.incoming_compared, pg_temp.incoming_asked_again;
  INSERT INTO migration.duplicate_pairs AS d
    (entity, left_legacy_id, right_legacy_id, score, explanation, status, run_id)
  SELECT p_entity, p.left_id, p.right_id, p.score::double precision, p.explanation::jsonb,
    -- Decided by a person when the run read it; where that is so no more, the decision was withdrawn since.
    CASE WHEN p.decision IN ('confirmed', 'rejected') THEN 'pending' ELSE p.decision END, p_run
  FROM pg_temp.incoming_pairs p
  ON CONFLICT (entity, left_legacy_id, right_legacy_id) DO UPDATE SET score = excluded.score,
    explanation = excluded.explanation, run_id = excluded.run_id,
    status = CASE WHEN d.decided_at IS NULL THEN excluded.status ELSE d.status END
    WHERE (d.score, d.explanation) IS DISTINCT FROM (excluded.score, excluded.explanation)
      OR (d.decided_at IS NULL AND d.status <> excluded.status);
  UPDATE migration.duplicate_pairs d SET status = 'stale', run_id = p_run
  WHERE d.entity = p_entity AND d.decided_at IS NULL AND d.status <> 'stale'
    AND (p_everyone
      OR d.left_legacy_id IN (SELECT c.legacy_id FROM pg_temp.incoming_compared c)
      OR d.right_legacy_id IN (SELECT c.legacy_id FROM pg_temp.incoming_compared c))
    AND NOT EXISTS (
      SELECT 1 FROM pg_temp.incoming_pairs p WHERE p.left_id = d.left_legacy_id AND p.right_id = d.right_legacy_id);
  UPDATE migration.duplicate_pairs d SET asked_again_at = now()
  FROM pg_temp.incoming_asked_again a
  WHERE d.entity = p_entity AND d.left_legacy_id = a.left_id AND d.right_legacy_id = a.right_id
    AND d.decided_at IS NOT NULL AND d.asked_again_at IS NULL;
END $$;

-- What deduplication decided: incoming_survivors (id, survivor_id) for the merge of this run and, unless it is a dry
-- run, incoming_pairs (left_id, right_id, score, explanation, decision), incoming_compared (legacy_id: rows that were
-- compared, or are gone; p_everyone: all were), incoming_asked_again (left_id, right_id: decided pairs of which a row
-- changed since) and, where it was learnt anew, p_model. p_row is the ledger's row.
CREATE FUNCTION migration_api.record_decisions(
  p_run text, p_entity text, p_dry_run boolean, p_row jsonb, p_everyone boolean, p_model jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  PERFORM migration.hold_lock(p_run);
  DELETE FROM migration.survivors s WHERE s.run_id = p_run AND s.entity = p_entity;
  INSERT INTO migration.survivors (run_id, entity, id, survivor_id)
  SELECT p_run, p_entity, s.id::uuid, s.survivor_id::uuid FROM pg_temp.incoming_survivors s;
  IF NOT p_dry_run THEN
    PERFORM migration.record_pairs(p_run, p_entity, p_everyone);
    INSERT INTO migration.match_models AS k (entity, model, run_id)
    SELECT p_entity, p_model, p_run WHERE p_model IS NOT NULL
    ON CONFLICT (entity) DO UPDATE SET model = excluded.model, run_id = excluded.run_id, recorded_at = now()
      WHERE k.model <> excluded.model;
  END IF;
  PERFORM migration.record_batch(p_run, p_row);
END $$;

-- NULL: nothing was learnt yet.
CREATE FUNCTION migration_api.match_model(p_entity text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT k.model FROM migration.match_models k WHERE k.entity = p_entity
$$;

-- Pairs that nobody decided, as they were found last.
CREATE FUNCTION migration_api.earlier_pairs(p_entity text, p_after text, p_most bigint)
RETURNS TABLE (pair text, left_id text, right_id text, score text, explanation text, status text)
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT d.left_legacy_id || ' ' || d.right_legacy_id, d.left_legacy_id, d.right_legacy_id, d.score::text,
    d.explanation::text, d.status
  FROM migration.duplicate_pairs d
  WHERE d.entity = p_entity AND d.decided_at IS NULL AND d.status <> 'stale' AND d.score IS NOT NULL
    AND (p_after IS NULL OR d.left_legacy_id || ' ' || d.right_legacy_id > p_after)
  ORDER BY 1 LIMIT p_most
$$;

-- Pairs that a person decided; asked_again is true or false.
CREATE FUNCTION migration_api.decisions(p_entity text, p_after text, p_most bigint)
RETURNS TABLE (pair text, left_id text, right_id text, decision text, left_hash text, right_hash text, asked_again text)
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT d.left_legacy_id || ' ' || d.right_legacy_id, d.left_legacy_id, d.right_legacy_id, d.status, d.left_hash,
    d.right_hash, (d.asked_again_at IS NOT NULL)::text
  FROM migration.duplicate_pairs d
  WHERE d.entity = p_entity AND d.decided_at IS NOT NULL
    AND (p_after IS NULL OR d.left_legacy_id || ' ' || d.right_legacy_id > p_after)
  ORDER BY 1 LIMIT p_most
$$;

-- When the last complete run began.
CREATE FUNCTION migration.complete_since() RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT coalesce((SELECT r.started_at FROM migration.watermarks w JOIN migration.runs r USING (run_id)
    WHERE w.name = 'source'), '-infinity')
$$;

-- Whether a person decided anything, or took a decision back, since the last complete run began.
CREATE FUNCTION migration_api.decided_since_complete(p_entity text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT to_jsonb(EXISTS (SELECT 1 FROM migration.duplicate_pairs d
    WHERE d.entity = p_entity AND d.reviewed_at >= migration.complete_since()))
$$;

-- Legacy ids of rows of which a decision was taken back since the last complete run began: whether they are a pair by
-- their score is to be found out anew.
CREATE FUNCTION migration_api.reopened_rows(p_entity text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT coalesce(jsonb_agg(DISTINCT i), '[]') FROM migration.duplicate_pairs d
  CROSS JOIN unnest(ARRAY[d.left_legacy_id, d.right_legacy_id]) AS i
  WHERE d.entity = p_entity AND d.decided_at IS NULL AND d.reviewed_at >= migration.complete_since()
$$;

-- The compared columns of some rows; rows that are not there are left out.
CREATE FUNCTION migration.compared_values(p_entity text, p_ids text[]) RETURNS TABLE (legacy_id text, compared jsonb)
LANGUAGE plpgsql STABLE SET search_path = '' SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' AS $$
BEGIN
  RETURN QUERY EXECUTE format('SELECT c.legacy_id, to_jsonb(c) FROM (%s) c WHERE c.legacy_id = ANY ($1)',
    migration.compared(p_entity)) USING p_ids;
END $$;

-- Of one row's; when the row was written does not count. plugins/hooks/review.py computes the same.
CREATE FUNCTION migration.compared_hash(p_compared jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  SELECT encode(sha256(convert_to(coalesce(
    string_agg(v.key || '=' || length(v.value) || ':' || v.value, '' ORDER BY v.key COLLATE "C"), ''), 'UTF8')), 'hex')
  FROM jsonb_each_text(p_compared - '{legacy_id,updated_at}'::text[]) v WHERE v.value IS NOT NULL
$$;

-- Names a state of both rows: who decides on a copy says by it what the copy showed. Begins with a letter, so that no
-- spreadsheet takes it for a number.
CREATE FUNCTION migration.seen(p_left_hash text, p_right_hash text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  SELECT 'v' || left(encode(sha256(convert_to(p_left_hash || p_right_hash, 'UTF8')), 'hex'), 10)
$$;

CREATE FUNCTION migration.refuse_unreviewed(p_entity text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
  IF migration.may_merge(p_entity) IS NOT TRUE THEN
    PERFORM migration.refuse('REVIEW_ENTITY_UNKNOWN', coalesce('Those that are: ' || (
      SELECT string_agg(e.entity, ', ' ORDER BY e.entity) FROM migration.entities e
      WHERE migration.may_merge(e.entity)) || '.', 'There is none.'));
  END IF;
END $$;

-- Ids of a pair as the matcher has them: the numerically lower one first.
CREATE FUNCTION migration.pair_of(p_one text, p_other text) RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  SELECT ARRAY(SELECT i FROM unnest(ARRAY[p_one, p_other]) AS i ORDER BY length(i), i COLLATE "C")
$$;

-- What the last decision on a pair replaced, so that who made it can take it back (migration_api.undo_decision).
CREATE TABLE migration.former_decisions (
  entity text NOT NULL,
  left_legacy_id text COLLATE "C" NOT NULL,
  right_legacy_id text COLLATE "C" NOT NULL,
  replaced_by text NOT NULL,
  -- duplicate_pairs.reviewed_at: whatever came later cannot be taken back by this.
  replaced_at timestamptz NOT NULL,
  status text NOT NULL,
  decided_by text,
  decided_at timestamptz,
  decision_reason text,
  left_hash text,
  right_hash text,
  asked_again_at timestamptz,
  PRIMARY KEY (entity, left_legacy_id, right_legacy_id)
);
ALTER TABLE migration.former_decisions ENABLE ROW LEVEL SECURITY;

-- Keeps a decision on a pair with the hashes of its rows, unless it is known; returns whether it is new.
CREATE FUNCTION migration.keep_decision(p_entity text, p_pair text[], p_decision text, p_by text, p_reason text,
  p_left_hash text, p_right_hash text) RETURNS boolean
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  former migration.duplicate_pairs;
BEGIN
  SELECT * INTO former FROM migration.duplicate_pairs d
  WHERE d.entity = p_entity AND d.left_legacy_id = p_pair[1] AND d.right_legacy_id = p_pair[2] FOR UPDATE;
  IF p_decision = 'pending' THEN
    UPDATE migration.duplicate_pairs d SET status = p_decision, decided_by = NULL, decided_at = NULL,
      decision_reason = NULL, left_hash = NULL, right_hash = NULL, asked_again_at = NULL, reviewed_at = now()
    WHERE d.entity = p_entity AND d.left_legacy_id = p_pair[1] AND d.right_legacy_id = p_pair[2]
      AND d.decided_at IS NOT NULL;
  ELSE
    INSERT INTO migration.duplicate_pairs AS d (entity, left_legacy_id, right_legacy_id, explanation, status,
      decided_by, decided_at, decision_reason, left_hash, right_hash, reviewed_at)
    VALUES (p_entity, p_pair[1], p_pair[2], '{}', p_decision, p_by, now(), p_reason, p_left_hash, p_right_hash, now())
    ON CONFLICT (entity, left_legacy_id, right_legacy_id) DO UPDATE SET status = excluded.status,
      decided_by = excluded.decided_by, decided_at = excluded.decided_at, decision_reason = excluded.decision_reason,
      left_hash = excluded.left_hash, right_hash = excluded.right_hash, asked_again_at = NULL,
      reviewed_at = excluded.reviewed_at
      WHERE (d.status, d.decided_by, d.decision_reason, d.asked_again_at)
        IS DISTINCT FROM (excluded.status, excluded.decided_by, excluded.decision_reason, NULL);
  END IF;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  DELETE FROM migration.former_decisions f
  WHERE f.entity = p_entity AND f.left_legacy_id = p_pair[1] AND f.right_legacy_id = p_pair[2];
  INSERT INTO migration.former_decisions (entity, left_legacy_id, right_legacy_id, replaced_by, replaced_at, status,
    decided_by, decided_at, decision_reason, left_hash, right_hash, asked_again_at)
  SELECT former.entity, former.left_legacy_id, former.right_legacy_id, p_by, now(), former.status, former.decided_by,
    former.decided_at, former.decision_reason, former.left_hash, former.right_hash, former.asked_again_at
  WHERE former.entity IS NOT NULL;
  INSERT INTO migration.audit_log (event, details) VALUES ('pair ' || p_decision, jsonb_build_object(
    'entity', p_entity, 'left', p_pair[1], 'right', p_pair[2], 'by', p_by,
    'before', former.status, 'before_by', former.decided_by, 'before_at', former.decided_at));
  RETURN true;
END $$;

-- Decides on two rows as they are now: confirmed, rejected, or pending to take a decision back. A pair that was never
-- found is made. Returns whether that is anything new. What may be decided is for the caller to check.
CREATE FUNCTION migration.decide(
  p_entity text, p_left text, p_right text, p_decision text, p_by text, p_reason text) RETURNS boolean
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  pair constant text[] := migration.pair_of(p_left, p_right);
  hashes jsonb;
BEGIN
  SELECT jsonb_object_agg(v.legacy_id, migration.compared_hash(v.compared)) INTO hashes
  FROM migration.compared_values(p_entity, pair) v;
  RETURN migration.keep_decision(p_entity, pair, p_decision, p_by, p_reason, hashes ->> pair[1], hashes ->> pair[2]);
END $$;

-- One line that names what is wrong and the first ten places; none where nothing is.
CREATE FUNCTION migration.wrong_places(p_what text, p_places text[]) RETURNS SETOF text
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  SELECT format('%s: %s%s.', p_what, array_to_string(p_places[1:10], ', '),
    CASE WHEN cardinality(p_places) > 10 THEN format(' and %s more', cardinality(p_places) - 10) ELSE '' END)
  WHERE cardinality(p_places) > 0
$$;

-- Refuses what pg_temp.decided must not hold; the hashes of its rows are in pg_temp.decided_rows.
CREATE FUNCTION migration.check_decided(p_entity text) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  PERFORM migration.refuse('REVIEW_DECISION_INVALID', w) FROM migration.wrong_places(
    'Neither confirmed, rejected nor pending', ARRAY(SELECT n.label FROM pg_temp.decided n
      WHERE n.decision IS NULL OR n.decision NOT IN ('confirmed', 'rejected', 'pending') ORDER BY n.place)) w;
  PERFORM migration.refuse('REVIEW_DECISION_INVALID', w) FROM migration.wrong_places(
    'Nobody who decided, or no reason', ARRAY(SELECT n.label FROM pg_temp.decided n
      WHERE coalesce(n.decided_by, '') !~ '\S' OR coalesce(n.reason, '') !~ '\S' ORDER BY n.place)) w;
  PERFORM migration.refuse('REVIEW_DECISION_INVALID', w) FROM migration.wrong_places(
    'One pair decided in two ways', ARRAY(SELECT n.label FROM pg_temp.decided n WHERE EXISTS (
      SELECT 1 FROM pg_temp.decided o WHERE o.pair = n.pair AND o.decision <> n.decision) ORDER BY n.place)) w;
  PERFORM migration.refuse('REVIEW_PAIR_UNKNOWN', w) FROM migration.wrong_places(
    'Never found as a pair', ARRAY(SELECT n.label FROM pg_temp.decided n WHERE NOT EXISTS (
      SELECT 1 FROM migration.duplicate_pairs d WHERE d.entity = p_entity AND d.left_legacy_id = n.pair[1]
        AND d.right_legacy_id = n.pair[2]) ORDER BY n.place)) w;
  PERFORM migration.refuse('REVIEW_PAIR_UNKNOWN', w) FROM migration.wrong_places(
    'A row of the pair is not there any more', ARRAY(SELECT n.label FROM pg_temp.decided n
      WHERE n.decision <> 'pending' AND (SELECT count(*) FROM pg_temp.decided_rows r
        WHERE r.legacy_id = ANY (n.pair)) < 2 ORDER BY n.place)) w;
  PERFORM migration.refuse('REVIEW_PAIR_CHANGED', w) FROM migration.wrong_places(
    'Another state than was looked at', ARRAY(SELECT n.label FROM pg_temp.decided n
      JOIN pg_temp.decided_rows l ON l.legacy_id = n.pair[1] JOIN pg_temp.decided_rows r ON r.legacy_id = n.pair[2]
      WHERE n.seen <> migration.seen(l.hash, r.hash) ORDER BY n.place)) w;
END $$;

-- Decides the pairs of incoming_decisions (left_id, right_id, decision, decided_by, reason, seen, label), all or nothing.
-- decision: confirmed, rejected, or pending to take one back. seen: as review_queue gave it; NULL: whatever the rows are
-- now. label: how messages name the line. Returns how many of each decision are new, and how many were known.
CREATE FUNCTION migration_api.decide_pairs(p_entity text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET client_min_messages = warning SET statement_timeout = '10min' AS $$
DECLARE
  one record;
  kind text;
  counts jsonb := '{"confirmed": 0, "rejected": 0, "pending": 0, "unchanged": 0}';
BEGIN
  PERFORM migration.refuse_unreviewed(p_entity);
  DROP TABLE IF EXISTS pg_temp.decided, pg_temp.decided_rows;
  CREATE TEMPORARY TABLE decided ON COMMIT DROP AS
  SELECT i.place, i.label, migration.pair_of(i.left_id, i.right_id) AS pair, i.decision, i.decided_by, i.reason, i.seen
  FROM pg_temp.incoming_decisions i;
  CREATE TEMPORARY TABLE decided_rows ON COMMIT DROP AS
  SELECT v.legacy_id, migration.compared_hash(v.compared) AS hash FROM migration.compared_values(p_entity,
    ARRAY(SELECT DISTINCT u FROM pg_temp.decided n CROSS JOIN unnest(n.pair) AS u)) v;
  CREATE UNIQUE INDEX ON pg_temp.decided_rows (legacy_id);
  ANALYZE pg_temp.decided, pg_temp.decided_rows;
  PERFORM migration.check_decided(p_entity);

  FOR one IN SELECT DISTINCT ON (n.pair) n.*, l.hash AS left_hash, r.hash AS right_hash FROM pg_temp.decided n
      LEFT JOIN pg_temp.decided_rows l ON l.legacy_id = n.pair[1]
      LEFT JOIN pg_temp.decided_rows r ON r.legacy_id = n.pair[2] ORDER BY n.pair, n.place LOOP
    kind := CASE WHEN migration.keep_decision(p_entity, one.pair, one.decision, one.decided_by, one.reason,
      one.left_hash, one.right_hash) THEN one.decision ELSE 'unchanged' END;
    counts := counts || jsonb_build_object(kind, (counts ->> kind)::bigint + 1);
  END LOOP;
  RETURN counts;
END $$;

-- Decides one pair, as decide_pairs.
CREATE FUNCTION migration_api.decide_pair(p_entity text, p_left text, p_right text, p_decision text, p_by text,
  p_reason text, p_seen text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  PERFORM migration.open_incoming('decisions',
    '{left_id,right_id,decision,decided_by,reason,seen,label}', array_fill('text'::text, ARRAY[7]));
  INSERT INTO pg_temp.incoming_decisions (left_id, right_id, decision, decided_by, reason, seen, label)
  VALUES (p_left, p_right, p_decision, p_by, p_reason, p_seen, format('pair %s and %s', p_left, p_right));
  RETURN migration_api.decide_pairs(p_entity);
END $$;

-- The pairs of some statuses (asked_again: decided, and a row changed since); without p_status those that wait for a
-- person. The compared columns of both rows, as JSON, only with p_with_names, and then it is kept who looked: p_by.
CREATE FUNCTION migration_api.review_queue(p_entity text, p_status text[] DEFAULT NULL,
  p_with_names boolean DEFAULT false, p_after text DEFAULT NULL, p_most bigint DEFAULT NULL, p_by text DEFAULT NULL)
RETURNS TABLE (pair text, left_id text, right_id text, score text, explanation text, status text, asked_again_at text,
  decided_by text, decided_at text, decision_reason text, seen text, left_values text, right_values text)
LANGUAGE plpgsql SET search_path = '' SET client_min_messages = warning SET TimeZone = 'UTC'
SET statement_timeout = '2min' AS $$
#variable_conflict use_column
DECLARE
  wanted constant text[] := coalesce(p_status, '{pending,asked_again}');
BEGIN
  PERFORM migration.refuse_unreviewed(p_entity);
  IF NOT wanted <@ '{pending,asked_again,auto_merged,confirmed,rejected,stale}' THEN
    PERFORM migration.refuse('PARAM_INVALID',
      'A status is pending, asked_again, auto_merged, confirmed, rejected or stale.');
  END IF;
  IF p_with_names AND trim(coalesce(p_by, '')) = '' THEN
    PERFORM migration.refuse('PARAM_INVALID', 'Who reads names must say who that is.');
  END IF;
  DROP TABLE IF EXISTS pg_temp.queue;
  CREATE TEMPORARY TABLE queue ON COMMIT DROP AS
  SELECT d.left_legacy_id || ' ' || d.right_legacy_id AS pair, d.* FROM migration.duplicate_pairs d
  WHERE d.entity = p_entity
    AND (d.status = ANY (wanted) OR ('asked_again' = ANY (wanted) AND d.asked_again_at IS NOT NULL))
    AND (p_after IS NULL OR d.left_legacy_id || ' ' || d.right_legacy_id > p_after)
  -- A page is no longer than what the API gives away at once: the log counts what was read.
  ORDER BY d.left_legacy_id || ' ' || d.right_legacy_id
  LIMIT CASE WHEN p_most IS NOT NULL THEN least(p_most, 1000) END;
  INSERT INTO migration.audit_log (event, details)
  SELECT 'names read', jsonb_build_object('entity', p_entity, 'by', p_by, 'pairs', count(*)) FROM pg_temp.queue
  WHERE p_with_names HAVING count(*) > 0;
  RETURN QUERY
  WITH people AS MATERIALIZED (
    SELECT v.legacy_id, v.compared - 'legacy_id' AS compared, migration.compared_hash(v.compared) AS hash
    FROM migration.compared_values(p_entity, ARRAY(
      SELECT q.left_legacy_id FROM pg_temp.queue q UNION SELECT q.right_legacy_id FROM pg_temp.queue q)) v)
  SELECT q.pair, q.left_legacy_id, q.right_legacy_id, q.score::text, q.explanation::text, q.status,
    q.asked_again_at::text, q.decided_by, q.decided_at::text, q.decision_reason, migration.seen(l.hash, r.hash),
    CASE WHEN p_with_names THEN l.compared::text END, CASE WHEN p_with_names THEN r.compared::text END
  FROM pg_temp.queue q LEFT JOIN people l ON l.legacy_id = q.left_legacy_id
  LEFT JOIN people r ON r.legacy_id = q.right_legacy_id ORDER BY q.pair;
END $$;

-- Pairs by status; those asked again are among the decided ones too.
CREATE FUNCTION migration_api.review_counts(p_entity text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
  PERFORM migration.refuse_unreviewed(p_entity);
  RETURN (SELECT jsonb_build_object('pending', count(*) FILTER (WHERE d.status = 'pending'),
      'asked_again', count(*) FILTER (WHERE d.asked_again_at IS NOT NULL),
      'auto_merged', count(*) FILTER (WHERE d.status = 'auto_merged'),
      'confirmed', count(*) FILTER (WHERE d.status = 'confirmed'),
      'rejected', count(*) FILTER (WHERE d.status = 'rejected'),
      'stale', count(*) FILTER (WHERE d.status = 'stale'))
    FROM migration.duplicate_pairs d WHERE d.entity = p_entity);
END $$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0012_review.sql');
