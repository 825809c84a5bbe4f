-- What Supabase's database linter objects to, asked of everything that include/sql deploys, and what this project
-- promises beyond it: a row of name, level (ERROR, WARN, INFO) and object for every offence. Read-only; any role.
--
-- Not asked: what depends on use (unused indexes, bloat) or on the project (versions of extensions, buckets, GraphQL).
WITH schemas (oid, name, exposed, internal) AS (
  SELECT n.oid, n.nspname, n.nspname IN ('public', 'migration_api'), n.nspname IN ('migration', 'migration_api')
  FROM pg_catalog.pg_namespace n WHERE n.nspname IN ('public', 'migration', 'migration_api', 'private')
),
members (oid) AS (SELECT d.objid FROM pg_catalog.pg_depend d WHERE d.deptype = 'e'),
relations AS (
  SELECT c.oid, s.name || '.' || c.relname AS object, c.relkind AS kind, c.relrowsecurity AS secured, c.relacl AS acl,
    s.exposed, s.internal,
    pg_catalog.has_table_privilege('anon', c.oid, 'SELECT')
      OR pg_catalog.has_table_privilege('authenticated', c.oid, 'SELECT') AS readable,
    coalesce(lower(c.reloptions::text)::text[] && ARRAY['security_invoker=1', 'security_invoker=true',
      'security_invoker=yes', 'security_invoker=on'], false) AS as_invoker
  FROM pg_catalog.pg_class c JOIN schemas s ON s.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.oid NOT IN (SELECT m.oid FROM members m)
),
tables AS (SELECT r.* FROM relations r WHERE r.kind IN ('r', 'p')),
policies AS (
  SELECT t.oid, t.object, t.secured, p.polname AS name, p.polcmd AS command, p.polpermissive AS permissive,
    p.polroles AS roles, pg_catalog.pg_get_expr(p.polqual, p.polrelid) AS condition,
    pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) AS on_write,
    lower(concat_ws(' ', pg_catalog.pg_get_expr(p.polqual, p.polrelid),
      pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))) AS expression
  FROM pg_catalog.pg_policy p JOIN tables t ON t.oid = p.polrelid
),
functions AS (
  SELECT p.oid, format('%s.%s(%s)', s.name, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid)) AS object,
    p.prosecdef AS definer, p.proconfig AS settings, s.exposed, s.internal,
    pg_catalog.has_function_privilege('anon', p.oid, 'EXECUTE') AS for_anon,
    pg_catalog.has_function_privilege('authenticated', p.oid, 'EXECUTE') AS for_authenticated
  FROM pg_catalog.pg_proc p JOIN schemas s ON s.oid = p.pronamespace
  WHERE p.oid NOT IN (SELECT m.oid FROM members m)
)
SELECT 'rls_disabled_in_public' AS name, 'ERROR' AS level, t.object FROM tables t WHERE NOT t.secured
UNION ALL
SELECT 'policy_exists_rls_disabled', 'ERROR', p.object || ': ' || p.name FROM policies p WHERE NOT p.secured
UNION ALL
SELECT 'rls_enabled_no_policy', 'INFO', t.object FROM tables t
WHERE t.secured AND NOT EXISTS (SELECT FROM policies p WHERE p.oid = t.oid)
UNION ALL
-- A call that is no subquery of its own is made for every row.
SELECT 'auth_rls_initplan', 'WARN', p.object || ': ' || p.name FROM policies p
WHERE regexp_replace(p.expression, 'select \(*(auth|private)\.\w+\(|select \(*current_setting\(', '', 'g')
  ~ '\m(auth|private)\.\w+\(|\mcurrent_setting\('
UNION ALL
SELECT 'multiple_permissive_policies', 'WARN', min(p.object) || ': ' || string_agg(DISTINCT p.name, ', ')
FROM policies p CROSS JOIN LATERAL unnest(p.roles) AS r (oid) CROSS JOIN LATERAL
  unnest(CASE p.command WHEN '*' THEN ARRAY['r', 'a', 'w', 'd'] ELSE ARRAY[p.command::text] END) AS c (command)
WHERE p.permissive GROUP BY p.oid, r.oid, c.command HAVING count(*) > 1
UNION ALL
SELECT 'rls_policy_always_true', 'WARN', p.object || ': ' || p.name FROM policies p
WHERE p.permissive AND p.command <> 'r'
  AND (coalesce(p.condition, 'true') IN ('true', '(1 = 1)') AND p.command <> 'a'
    OR coalesce(p.on_write, p.condition, 'true') IN ('true', '(1 = 1)') AND p.command <> 'd')
UNION ALL
-- Users may write it themselves.
SELECT 'rls_references_user_metadata', 'ERROR', p.object || ': ' || p.name FROM policies p
WHERE p.expression LIKE '%user_metadata%'
UNION ALL
SELECT 'security_definer_view', 'ERROR', r.object FROM relations r
WHERE r.kind = 'v' AND r.exposed AND r.readable AND NOT r.as_invoker
UNION ALL
SELECT 'auth_users_exposed', 'ERROR', r.object FROM relations r
WHERE r.exposed AND r.readable AND EXISTS (
  SELECT FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_depend d ON d.objid = w.oid AND d.deptype = 'n'
  JOIN pg_catalog.pg_class u ON u.oid = d.refobjid AND u.relname = 'users'
  WHERE w.ev_class = r.oid AND u.relnamespace = pg_catalog.to_regnamespace('auth')
    AND NOT (r.as_invoker AND u.relrowsecurity))
UNION ALL
SELECT 'materialized_view_in_api', 'WARN', r.object FROM relations r WHERE r.kind = 'm' AND r.exposed AND r.readable
UNION ALL
SELECT 'foreign_table_in_api', 'WARN', r.object FROM relations r WHERE r.kind = 'f' AND r.exposed AND r.readable
UNION ALL
SELECT 'sensitive_columns_exposed', 'ERROR', t.object || '.' || a.attname
FROM tables t JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE t.exposed AND t.readable AND NOT t.secured AND replace(lower(a.attname), '-', '_') ~ concat(
  '^(password|passwd|pwd|passphrase|secret(_key)?|(private|api|auth|session|license|activation|pgp|gpg|ssh)_?key|jwt|',
  '((access|refresh|oauth|session|bearer)_)?token|(auth|recovery|backup|verification)_code|otp|session_(id|secret)|ssn|',
  'social_security(_number)?|(driver|drivers)_license|(license|passport)_number|(passport|national|tax)_id|credit_card|',
  'card_number|cvv|cvc|bank_account|(account|routing|insurance)_number|iban|swift_code|bic|(health|medical)_record|',
  'patient_id|(health|medical)_insurance|treatment|first_name|last_name|email|phone|date_of_birth|medical_history)$')
UNION ALL
SELECT 'function_search_path_mutable', 'WARN', f.object FROM functions f
WHERE NOT EXISTS (SELECT FROM unnest(f.settings) AS s (setting) WHERE s.setting LIKE 'search\_path=%')
UNION ALL
SELECT 'anon_security_definer_function_executable', 'WARN', f.object FROM functions f
WHERE f.definer AND f.exposed AND f.for_anon
UNION ALL
SELECT 'authenticated_security_definer_function_executable', 'WARN', f.object FROM functions f
WHERE f.definer AND f.exposed AND f.for_authenticated
UNION ALL
SELECT 'extension_in_public', 'WARN', e.extname::text FROM pg_catalog.pg_extension e
WHERE e.extnamespace = 'public'::regnamespace AND e.extname <> 'plpgsql'
UNION ALL
-- An index of a condition serves only where it leaves out nothing but NULL.
SELECT 'unindexed_foreign_keys', 'INFO', t.object || ': ' || k.conname
FROM pg_catalog.pg_constraint k JOIN tables t ON t.oid = k.conrelid
WHERE k.contype = 'f' AND NOT EXISTS (
  SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = k.conrelid AND i.indisvalid
    AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] = k.conkey
    AND (i.indpred IS NULL OR pg_catalog.pg_get_expr(i.indpred, i.indrelid) ~ '^\(\w+ IS NOT NULL\)$'))
UNION ALL
SELECT 'duplicate_index', 'WARN', min(t.object) || ': ' || string_agg(c.relname, ', ' ORDER BY c.relname)
FROM pg_catalog.pg_index i JOIN tables t ON t.oid = i.indrelid JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
GROUP BY i.indrelid, regexp_replace(pg_catalog.pg_get_indexdef(i.indexrelid), ' INDEX .*? ON ', ' ON ')
HAVING count(*) > 1
UNION ALL
SELECT 'no_primary_key', 'INFO', t.object FROM tables t
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = t.oid AND i.indisprimary)
UNION ALL
SELECT 'fkey_to_auth_unique', 'ERROR', t.object || ': ' || k.conname
FROM pg_catalog.pg_constraint k JOIN tables t ON t.oid = k.conrelid
JOIN pg_catalog.pg_class r ON r.oid = k.confrelid AND r.relnamespace = pg_catalog.to_regnamespace('auth')
JOIN pg_catalog.pg_index i ON i.indexrelid = k.conindid AND NOT i.indisprimary
WHERE k.contype = 'f'
UNION ALL
-- Upgrades of the server cannot carry these types over.
SELECT 'unsupported_reg_types', 'WARN', t.object || '.' || a.attname
FROM tables t JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE a.atttypid IN ('regcollation'::regtype, 'regconfig'::regtype, 'regdictionary'::regtype, 'regnamespace'::regtype,
  'regoper'::regtype, 'regoperator'::regtype, 'regproc'::regtype, 'regprocedure'::regtype)
UNION ALL
-- From here on: promises of this project.
SELECT 'granted_to_anon', 'ERROR', r.object FROM relations r
WHERE EXISTS (SELECT FROM pg_catalog.aclexplode(r.acl) a WHERE a.grantee IN (0, 'anon'::regrole))
UNION ALL
SELECT 'granted_to_anon', 'ERROR', f.object FROM functions f WHERE f.for_anon
UNION ALL
SELECT 'writable_by_authenticated', 'ERROR', r.object FROM relations r
WHERE EXISTS (SELECT FROM pg_catalog.aclexplode(r.acl) a
  WHERE a.grantee = 'authenticated'::regrole AND a.privilege_type <> 'SELECT')
UNION ALL
SELECT 'migration_open_to_users', 'ERROR', r.object FROM relations r WHERE r.internal AND r.readable
UNION ALL
SELECT 'migration_open_to_users', 'ERROR', f.object FROM functions f WHERE f.internal AND f.for_authenticated
UNION ALL
SELECT 'migration_open_to_users', 'ERROR', 'schema ' || s.name FROM schemas s
WHERE s.internal AND (pg_catalog.has_schema_privilege('anon', s.oid, 'USAGE')
  OR pg_catalog.has_schema_privilege('authenticated', s.oid, 'USAGE'))
ORDER BY 1, 3
