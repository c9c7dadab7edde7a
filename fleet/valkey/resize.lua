-- KEYS chord, parts, due   ARGV group, size or '', number of parts added, grace
-- Returns 0, or the snapshot if every part had arrived already.
if redis.call('HGET', KEYS[1], 'state') ~= 'OPEN' then return 0 end
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'size', ARGV[2]) end
redis.call('HINCRBY', KEYS[1], 'added', ARGV[3])
if not all_arrived(KEYS[1], KEYS[2]) then return 0 end
return close(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[4])
