-- Binds an Idempotency-Key to a request, and the work to one caller for the lease; the seed outlives a refusal.
-- KEYS: binding   ARGV: digest, lease (ms), time to live (s), seed
-- Returns {'other'} | {'answered', seed, answer} | {'busy'} | {'mine', seed, attempt}
local known = redis.call('HMGET', KEYS[1], 'digest', 'answer', 'until_ms', 'seed')
if known[1] and known[1] ~= ARGV[1] then return {'other'} end
if known[2] then return {'answered', known[4], known[2]} end
if known[3] and tonumber(known[3]) > now_ms() then return {'busy'} end
if redis.call('HSETNX', KEYS[1], 'seed', ARGV[4]) == 1 then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
redis.call('HSET', KEYS[1], 'digest', ARGV[1], 'until_ms', now_ms() + ARGV[2])
return {'mine', redis.call('HGET', KEYS[1], 'seed'), redis.call('HINCRBY', KEYS[1], 'attempt', 1)}
