-- KEYS chord, due   ARGV group, deadline in unix seconds
if redis.call('HGET', KEYS[1], 'state') ~= 'OPEN' then return 0 end
redis.call('HSET', KEYS[1], 'deadline', ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
return 1
