-- Moves a deliberation from a sealed step to the next one, once; entering "record" freezes the decision with it.
-- The deaths of the council's process are of the step that is left, and forgotten with it.
-- KEYS: deliberation, due, events, attempts   ARGV: id, from, to, decision or '', subject, payload
-- Returns 1 if this call moved it.
local state = redis.call('HMGET', KEYS[1], 'status', 'step', 'sealed')
if not open(state[1]) or state[2] ~= ARGV[2] or state[3] ~= '1' then return 0 end
local now = now_ms()
redis.call('HSET', KEYS[1], 'step', ARGV[3], 'sealed', 0)
redis.call('HDEL', KEYS[4], 'council.*')
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'decision', ARGV[4]) end
redis.call('ZADD', KEYS[2], now + 15000, ARGV[1])
append(KEYS[3], ARGV[1], 5)
return 1
