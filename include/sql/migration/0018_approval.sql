-- The approval of a run by a person, between deduplication and loading: what loading will do, the wait, the answer. What
-- an earlier attempt of the same run has loaded counts as still to be done, so the numbers stay those that were asked.

-- Of an entity: rows that the target knows; of these, those of incoming_gone_keys (legacy_id) that will be marked as
-- deleted; rows that will be merged and are not yet; pairs that wait in the review queue.
CREATE FUNCTION migration_api.expected_changes(p_run text, p_entity text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '10min' AS $$
BEGIN
  RETURN jsonb_build_object(
    'known', (SELECT count(*) FROM migration.id_map m WHERE m.entity = p_entity AND m.state <> 'deleted'),
    'deleted', (SELECT count(*) FROM pg_temp.incoming_gone_keys k JOIN migration.id_map m
      ON m.entity = p_entity AND m.legacy_id = k.legacy_id WHERE m.state <> 'deleted' OR m.last_run = p_run),
    'merged', (SELECT count(*) FROM migration.survivors_of(p_run, p_entity) s WHERE NOT EXISTS (
      SELECT 1 FROM migration.merges g WHERE g.merged_id = s.id AND g.undone_at IS NULL AND g.run_id <> p_run)),
    'to_review', (SELECT count(*) FROM migration.duplicate_pairs d
      WHERE d.entity = p_entity AND (d.status = 'pending' OR d.asked_again_at IS NOT NULL)));
END $$;

-- How many rows of incoming_clean_keys (legacy_id) the target did not know before this run.
CREATE FUNCTION migration_api.expected_new(p_run text, p_entity text) RETURNS bigint
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '10min' AS $$
BEGIN
  ANALYZE pg_temp.incoming_clean_keys;
  RETURN (SELECT count(*) FROM pg_temp.incoming_clean_keys k WHERE NOT EXISTS (SELECT 1 FROM migration.id_map m
    WHERE m.entity = p_entity AND m.legacy_id = k.legacy_id AND m.first_run <> p_run));
END $$;

-- The run waits for an answer, without any process that could give signs of life.
CREATE FUNCTION migration_api.await_approval(p_run text, p_seconds bigint, p_details jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  PERFORM migration.hold_lock(p_run);
  UPDATE migration.run_lock SET heartbeat_at = clock_timestamp(),
    awaits_until = clock_timestamp() + make_interval(secs => p_seconds) WHERE run_id = p_run;
  PERFORM migration.audit(p_run, 'approval requested', p_details);
END $$;

-- The answer as a note of the run, and in the audit trail.
CREATE FUNCTION migration_api.record_answer(p_run text, p_code text, p_subject text, p_facts jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  PERFORM migration_api.record_note(p_run, p_code, p_subject, p_facts);
  PERFORM migration.audit(p_run, p_code, p_facts);
END $$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0018_approval.sql');
