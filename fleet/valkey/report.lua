-- KEYS chord, parts, due, task result   ARGV group, field, part, grace, result or '', seconds until the result expires
-- Returns -1 if the part was not wanted (chord closed or unknown, part counted before), 0 if counted, the snapshot if it was the last.
if redis.call('HGET', KEYS[1], 'state') ~= 'OPEN' then return -1 end
if redis.call('HSETNX', KEYS[2], ARGV[2], ARGV[3]) == 0 then return -1 end
if ARGV[5] ~= '' then store_result(KEYS[4], ARGV[5], ARGV[6]) end
if not all_arrived(KEYS[1], KEYS[2]) then return 0 end
return close(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[4])
