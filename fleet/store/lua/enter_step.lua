-- Moves a deliberation from a sealed step to the next one, once; entering "record" freezes the decision with it.
-- KEYS: deliberation, due, events   ARGV: id, from, to, decision or '', subject, payload
-- Returns 1 if this call moved it.
local state = redis.call('HMGET', KEYS[1], 'status', 'step', 'sealed')
if (state[1] ~= 'PENDING' and state[1] ~= 'IN_PROGRESS') or state[2] ~= ARGV[2] or state[3] ~= '1' then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'step', ARGV[3], 'sealed', 0)
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'decision', ARGV[4]) end
redis.call('ZADD', KEYS[2], now + 15000, ARGV[1])
redis.call('XADD', KEYS[3], '*', 'subject', ARGV[5], 'payload', ARGV[6], 'deliberation_id', ARGV[1])
return 1
