-- KEYS chord, due   ARGV group, seconds until the deadline, then the fields of the record
-- Returns 1, or 0 if the chord exists: a repeated submission changes nothing.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local deadline = now() + tonumber(ARGV[2])
redis.call('HSET', KEYS[1], 'state', 'OPEN', 'deadline', deadline, unpack(ARGV, 3))
redis.call('ZADD', KEYS[2], deadline, ARGV[1])
return 1
