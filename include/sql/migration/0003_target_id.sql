-- The id of a row in SQL, the same as include/core/ids.py computes: UUIDv5 of the project's namespace and
-- "<entity>:<legacy id>". For looking rows up by hand, not for bulk work: SHA-1 is written out because neither pgcrypto nor uuid-ossp is certain to be installed.
CREATE FUNCTION migration.sha1(message bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = '' AS $$
DECLARE
  word_mask constant bigint := x'ffffffff'::bigint;
  length constant integer := octet_length(message);
  -- 0x80, zeros up to 56 modulo 64, then the length in bits as eight bytes.
  padded constant bytea := message || '\x80'::bytea
    || decode(repeat('00', ((55 - length) % 64 + 64) % 64), 'hex') || int8send(length * 8::bigint);
  h bigint[] := ARRAY[x'67452301'::bigint, x'efcdab89'::bigint, x'98badcfe'::bigint, x'10325476'::bigint,
    x'c3d2e1f0'::bigint];
  w bigint[];
  a bigint; b bigint; c bigint; d bigint; e bigint; f bigint; k bigint; x bigint;
BEGIN
  FOR block IN 0 .. octet_length(padded) / 64 - 1 LOOP
    FOR i IN 0 .. 15 LOOP
      w[i] := (get_byte(padded, block * 64 + i * 4)::bigint << 24) | (get_byte(padded, block * 64 + i * 4 + 1) << 16)
        | (get_byte(padded, block * 64 + i * 4 + 2) << 8) | get_byte(padded, block * 64 + i * 4 + 3);
    END LOOP;
    FOR i IN 16 .. 79 LOOP
      x := w[i - 3] # w[i - 8] # w[i - 14] # w[i - 16];
      w[i] := ((x << 1) | (x >> 31)) & word_mask;
    END LOOP;
    a := h[1]; b := h[2]; c := h[3]; d := h[4]; e := h[5];
    FOR i IN 0 .. 79 LOOP
      CASE i / 20
        WHEN 0 THEN f := (b & c) | (~b & word_mask & d); k := x'5a827999'::bigint;
        WHEN 1 THEN f := b # c # d; k := x'6ed9eba1'::bigint;
        WHEN 2 THEN f := (b & c) | (b & d) | (c & d); k := x'8f1bbcdc'::bigint;
        ELSE f := b # c # d; k := x'ca62c1d6'::bigint;
      END CASE;
      x := ((((a << 5) | (a >> 27)) & word_mask) + f + e + k + w[i]) & word_mask;
      e := d; d := c; c := ((b << 30) | (b >> 2)) & word_mask; b := a; a := x;
    END LOOP;
    h := ARRAY[(h[1] + a) & word_mask, (h[2] + b) & word_mask, (h[3] + c) & word_mask, (h[4] + d) & word_mask,
      (h[5] + e) & word_mask];
  END LOOP;
  RETURN int4send(h[1]::bit(32)::integer) || int4send(h[2]::bit(32)::integer) || int4send(h[3]::bit(32)::integer)
    || int4send(h[4]::bit(32)::integer) || int4send(h[5]::bit(32)::integer);
END $$;

CREATE FUNCTION migration.target_id(entity text, legacy_id text) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = '' AS $$
  WITH digest AS (
    SELECT substr(migration.sha1('\x6f1d3f0e5b5c5c1e9d3a4d5744000001'::bytea
      || convert_to(entity || ':' || legacy_id, 'UTF8')), 1, 16) AS raw
  )
  SELECT encode(set_byte(set_byte(raw, 6, (get_byte(raw, 6) & 15) | 80), 8, (get_byte(raw, 8) & 63) | 128), 'hex')::uuid
  FROM digest
$$;

REVOKE ALL ON FUNCTION migration.sha1, migration.target_id FROM PUBLIC;

INSERT INTO migration.schema_versions (name) VALUES ('migration/0003_target_id.sql');
