-- KEYS chord, due   ARGV group, task, epoch, retries of the next attempt, seconds until it is missed
if redis.call('HGET', KEYS[1], 'epoch:' .. ARGV[2]) ~= ARGV[3] then return 0 end
redis.call('HDEL', KEYS[1], 'lease:' .. ARGV[2])
redis.call('HSET', KEYS[1], 'retries:' .. ARGV[2], ARGV[4])
act_at(KEYS[1], KEYS[2], ARGV[1], now() + tonumber(ARGV[5]))
return 1
