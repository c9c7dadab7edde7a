-- Ends an attempt, unless a later one has taken over.
-- KEYS: binding   ARGV: attempt, 'keep' or 'free', answer or '' for none
if redis.call('HGET', KEYS[1], 'attempt') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'until_ms')
if ARGV[2] == 'free' then redis.call('HDEL', KEYS[1], 'digest') end
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'answer', ARGV[3]) end
return 1
