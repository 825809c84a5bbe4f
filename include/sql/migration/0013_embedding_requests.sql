-- Requests to embedding providers: each is reserved before it is sent and settled behind it, so that all workers
-- together keep the account's limits and the run's budget, whatever becomes of one of them. Times are of this server.

-- What is shared by all who use an account. The moments are when what was reserved so far has passed at the permitted
-- rate: a bucket of requests and one of tokens, that run full within a second (GCRA with a burst of one second).
CREATE TABLE migration.embedding_accounts (
  account text PRIMARY KEY,
  -- As the provider says; NULL: it did not yet.
  requests_per_minute bigint,
  tokens_per_minute bigint,
  requests_until timestamptz NOT NULL DEFAULT '-infinity',
  tokens_until timestamptz NOT NULL DEFAULT '-infinity',
  paused_until timestamptz NOT NULL DEFAULT '-infinity'
);

CREATE TABLE migration.embedding_requests (
  request uuid PRIMARY KEY,
  run_id text NOT NULL REFERENCES migration.runs,
  entity text NOT NULL,
  account text NOT NULL,
  provider text NOT NULL,
  model text NOT NULL,
  texts bigint NOT NULL,
  -- As estimated, and as the provider counted.
  tokens bigint NOT NULL,
  billed_tokens bigint,
  -- US dollars per million tokens; NULL: not known.
  price numeric,
  -- Lost: nobody knows whether it was answered, so it counts as if it were; reserved by a worker that died, as well.
  state text NOT NULL DEFAULT 'reserved' CHECK (state IN ('reserved', 'answered', 'refused', 'lost', 'unsent')),
  cost numeric GENERATED ALWAYS AS (
    coalesce(billed_tokens, CASE WHEN state IN ('refused', 'unsent') THEN 0 ELSE tokens END) * price / 1000000) STORED,
  reserved_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  send_at timestamptz NOT NULL,
  settled_at timestamptz
);
CREATE INDEX embedding_requests_run ON migration.embedding_requests (run_id, entity);

-- The sum of the costs of a run's requests.
CREATE TABLE migration.embedding_spending (
  run_id text PRIMARY KEY REFERENCES migration.runs,
  spent numeric NOT NULL DEFAULT 0
);

-- What embedding an entity was going to take, before it began.
CREATE TABLE migration.embedding_estimates (
  run_id text NOT NULL REFERENCES migration.runs,
  entity text NOT NULL,
  estimate jsonb NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (run_id, entity)
);

-- Jobs of the Batch API, one for a share of an entity's texts; what they are is the client's business.
CREATE TABLE migration.embedding_jobs (
  run_id text NOT NULL REFERENCES migration.runs,
  entity text NOT NULL,
  share text NOT NULL,
  job jsonb NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (run_id, entity, share)
);
ALTER TABLE migration.embedding_accounts ENABLE ROW LEVEL SECURITY;
ALTER TABLE migration.embedding_requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE migration.embedding_spending ENABLE ROW LEVEL SECURITY;
ALTER TABLE migration.embedding_estimates ENABLE ROW LEVEL SECURITY;
ALTER TABLE migration.embedding_jobs ENABLE ROW LEVEL SECURITY;

-- Adds to what the run has spent.
CREATE FUNCTION migration.spend(p_run text, p_cost numeric, p_budget numeric) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  IF p_budget IS NOT NULL AND p_cost IS NULL THEN
    PERFORM migration.refuse('EMBEDDING_PRICE_UNKNOWN', 'There is a budget.');
  END IF;
  IF coalesce(p_cost, 0) = 0 THEN
    RETURN;
  END IF;
  INSERT INTO migration.embedding_spending (run_id) VALUES (p_run) ON CONFLICT DO NOTHING;
  UPDATE migration.embedding_spending s SET spent = s.spent + p_cost
  WHERE s.run_id = p_run AND (p_budget IS NULL OR s.spent + p_cost <= p_budget);
  IF NOT FOUND THEN
    PERFORM migration.refuse('EMBEDDING_BUDGET', format(
      'Spent or on its way: %s of %s US dollars; the next request takes %s.',
      (SELECT round(s.spent, 6) FROM migration.embedding_spending s WHERE s.run_id = p_run), p_budget, round(p_cost, 6)));
  END IF;
END $$;

CREATE FUNCTION migration.turn(p_request text, p_wait interval, p_paused boolean) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  SELECT jsonb_build_object('request', p_request, 'paused', p_paused,
    'wait_seconds', greatest(0, extract(epoch FROM p_wait))::double precision)
$$;

-- Reserves a request (a uuid of the client's; asked for again, it is the same one), to be sent in so many seconds.
-- NULL instead of the request: it would be more than a minute, and nothing is reserved; paused tells whether that is
-- the provider's wish, and not for the requests before it. What the provider said of its
-- limits counts more than the limits given; NULL: none. p_price and p_budget are numbers.
CREATE FUNCTION migration_api.reserve_embedding(p_request text, p_run text, p_entity text, p_account text,
  p_provider text, p_model text, p_texts bigint, p_tokens bigint, p_price text, p_budget text,
  p_requests_per_minute bigint, p_tokens_per_minute bigint) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  burst constant interval := '1 s';
  account migration.embedding_accounts;
  asked timestamptz;
  turn timestamptz;
  takes_requests interval;
  takes_tokens interval;
BEGIN
  PERFORM migration.hold_lock(p_run);
  INSERT INTO migration.embedding_accounts (account) VALUES (p_account) ON CONFLICT DO NOTHING;
  SELECT * INTO STRICT account FROM migration.embedding_accounts a WHERE a.account = p_account FOR UPDATE;
  asked := clock_timestamp();
  SELECT r.send_at INTO turn FROM migration.embedding_requests r WHERE r.request = p_request::uuid;
  IF FOUND THEN
    RETURN migration.turn(p_request, turn - asked, false);
  END IF;
  takes_requests := make_interval(secs => 60.0 / coalesce(account.requests_per_minute, p_requests_per_minute));
  takes_tokens := make_interval(secs => 60.0 * p_tokens / coalesce(account.tokens_per_minute, p_tokens_per_minute));
  -- What takes longer than a burst is sent once all before it has passed, and is waited for by what follows.
  turn := greatest(asked, account.paused_until, account.requests_until + least(takes_requests, burst) - burst,
    account.tokens_until + least(takes_tokens, burst) - burst);
  IF turn > asked + interval '1 min' THEN
    RETURN migration.turn(NULL, turn - asked, account.paused_until > asked + interval '1 min');
  END IF;
  PERFORM migration.spend(p_run, p_tokens * p_price::numeric / 1000000, p_budget::numeric);
  UPDATE migration.embedding_accounts a SET
    requests_until = CASE WHEN takes_requests IS NULL THEN a.requests_until
      ELSE greatest(a.requests_until, turn) + takes_requests END,
    tokens_until = CASE WHEN takes_tokens IS NULL THEN a.tokens_until
      ELSE greatest(a.tokens_until, turn) + takes_tokens END
  WHERE a.account = p_account AND (takes_requests IS NOT NULL OR takes_tokens IS NOT NULL);
  INSERT INTO migration.embedding_requests (request, run_id, entity, account, provider, model, texts, tokens, price, send_at)
  VALUES (p_request::uuid, p_run, p_entity, p_account, p_provider, p_model, p_texts, p_tokens, p_price::numeric, turn);
  RETURN migration.turn(p_request, turn - asked, false);
END $$;

-- Seconds until an account that has something left can take as much again; NULL: at once, or nobody knows.
CREATE FUNCTION migration.refill_seconds(
  p_remaining bigint, p_needed bigint, p_per_minute bigint, p_reset_seconds double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  SELECT least((p_needed - p_remaining) * 60.0 / p_per_minute, p_reset_seconds) WHERE p_remaining < p_needed
$$;

-- What became of a request, and what its response said: how many tokens are billed, the account's limits
-- ({requests_per_minute, remaining_requests, requests_reset_seconds, and the same of tokens}), and how long nobody
-- may ask. Settled once; a late second answer changes nothing. Also for who has lost the run: it is billed anyway.
CREATE FUNCTION migration_api.settle_embedding(
  p_request text, p_state text, p_tokens bigint, p_limits jsonb, p_pause_seconds double precision) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  settled migration.embedding_requests;
  said record;
BEGIN
  -- The account first, as on reserving.
  PERFORM FROM migration.embedding_accounts a
  WHERE a.account = (SELECT r.account FROM migration.embedding_requests r WHERE r.request = p_request::uuid) FOR UPDATE;
  SELECT * INTO settled FROM migration.embedding_requests r
  WHERE r.request = p_request::uuid AND r.state = 'reserved';
  IF NOT FOUND THEN
    RETURN;
  END IF;
  UPDATE migration.embedding_requests r SET state = p_state, billed_tokens = p_tokens, settled_at = clock_timestamp()
  WHERE r.request = settled.request;
  PERFORM migration.spend(settled.run_id, r.cost - settled.cost, NULL)
  FROM migration.embedding_requests r WHERE r.request = settled.request;
  SELECT * INTO said FROM jsonb_to_record(coalesce(p_limits, '{}')) AS l (requests_per_minute bigint,
    tokens_per_minute bigint, remaining_requests bigint, remaining_tokens bigint,
    requests_reset_seconds double precision, tokens_reset_seconds double precision);
  UPDATE migration.embedding_accounts a SET requests_per_minute = n.requests, tokens_per_minute = n.tokens,
    paused_until = n.paused
  FROM (SELECT coalesce(said.requests_per_minute, o.requests_per_minute) AS requests,
      coalesce(said.tokens_per_minute, o.tokens_per_minute) AS tokens,
      -- The account has been filling up since the request arrived there.
      greatest(o.paused_until, clock_timestamp() + make_interval(secs => nullif(p_pause_seconds, 0)),
        settled.send_at + make_interval(secs => migration.refill_seconds(
          said.remaining_requests, 1, said.requests_per_minute, said.requests_reset_seconds)),
        settled.send_at + make_interval(secs => migration.refill_seconds(
          said.remaining_tokens, settled.tokens, said.tokens_per_minute, said.tokens_reset_seconds))) AS paused
    FROM migration.embedding_accounts o WHERE o.account = settled.account) n
  WHERE a.account = settled.account AND (a.requests_per_minute, a.tokens_per_minute, a.paused_until)
    IS DISTINCT FROM (n.requests, n.tokens, n.paused);
END $$;

-- Planned again after requests were made, an entity keeps the numbers that were estimated before the first, and to
-- whom its texts left.
CREATE FUNCTION migration_api.record_embedding_estimate(p_run text, p_entity text, p_estimate jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  PERFORM migration.hold_lock(p_run);
  IF EXISTS (SELECT FROM migration.embedding_requests r WHERE r.run_id = p_run AND r.entity = p_entity) THEN
    UPDATE migration.embedding_estimates e SET estimate = n.estimate
    FROM (SELECT o.estimate || (p_estimate - '{documents,wanted,texts,tokens,cost}'::text[])
        || CASE WHEN o.estimate -> 'leaves' = 'true' THEN jsonb_build_object('leaves', true, 'account',
          CASE WHEN p_estimate -> 'leaves' <> 'true' OR strpos(o.estimate ->> 'account', p_estimate ->> 'account') > 0
            THEN o.estimate ->> 'account'
            ELSE concat_ws(' and ', o.estimate ->> 'account', p_estimate ->> 'account') END) ELSE '{}' END AS estimate
      FROM migration.embedding_estimates o WHERE o.run_id = p_run AND o.entity = p_entity) n
    WHERE e.run_id = p_run AND e.entity = p_entity AND e.estimate <> n.estimate;
    RETURN;
  END IF;
  INSERT INTO migration.embedding_estimates AS e (run_id, entity, estimate) VALUES (p_run, p_entity, p_estimate)
  ON CONFLICT (run_id, entity) DO UPDATE SET estimate = excluded.estimate, recorded_at = now()
    WHERE e.estimate <> excluded.estimate;
END $$;

CREATE FUNCTION migration_api.record_embedding_job(p_run text, p_entity text, p_share text, p_job jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  PERFORM migration.hold_lock(p_run);
  INSERT INTO migration.embedding_jobs AS j (run_id, entity, share, job) VALUES (p_run, p_entity, p_share, p_job)
  ON CONFLICT (run_id, entity, share) DO UPDATE SET job = excluded.job, recorded_at = now()
    WHERE j.job <> excluded.job;
END $$;

CREATE FUNCTION migration_api.embedding_jobs(p_run text, p_entity text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT coalesce(jsonb_agg(j.job ORDER BY j.share), '[]') FROM migration.embedding_jobs j
  WHERE j.run_id = p_run AND j.entity = p_entity
$$;

-- What a run expected and did: {estimates: {entity: …}, requests: [{entity, provider, model, state, requests, texts,
-- tokens, billed_tokens, cost}], refused: [{entity, code, rows}], spent}. Money is text, in US dollars.
CREATE FUNCTION migration_api.embedding_facts(p_run text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT jsonb_build_object(
    'estimates', (SELECT coalesce(jsonb_object_agg(e.entity, e.estimate), '{}') FROM migration.embedding_estimates e
      WHERE e.run_id = p_run),
    'requests', (SELECT coalesce(jsonb_agg(r ORDER BY r.entity, r.provider, r.model, r.state), '[]') FROM (
      SELECT r.entity, r.provider, r.model, r.state, count(*) AS requests, sum(r.texts) AS texts,
        sum(r.tokens) AS tokens, sum(coalesce(r.billed_tokens, CASE WHEN r.state IN ('refused', 'unsent') THEN 0 ELSE r.tokens END)) AS billed_tokens, trim_scale(sum(r.cost))::text AS cost
      FROM migration.embedding_requests r WHERE r.run_id = p_run GROUP BY 1, 2, 3, 4) r),
    'refused', (SELECT coalesce(jsonb_agg(q ORDER BY q.entity, q.code), '[]') FROM (
      SELECT q.entity, q.code, count(*) AS rows FROM migration.embedding_quarantine q
      WHERE q.run_id = p_run AND q.resolved_run_id IS NULL GROUP BY 1, 2) q),
    'spent', (SELECT trim_scale(coalesce(sum(s.spent), 0))::text FROM migration.embedding_spending s WHERE s.run_id = p_run))
$$;

-- Those of an entity's ids that a dry run expects to be rows behind it: those it does not write are as they are.
CREATE FUNCTION migration_api.expected_rows(p_run text, p_entity text, p_ids text[]) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT coalesce(jsonb_agg(i.id), '[]') FROM unnest(p_ids::uuid[]) AS i (id)
  LEFT JOIN migration.planned_ids d ON d.run_id = p_run AND d.id = i.id
  LEFT JOIN migration.id_map m ON m.entity = p_entity AND m.target_id = i.id
  WHERE coalesce(NOT d.deleted, m.state = 'live')
$$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0013_embedding_requests.sql');
