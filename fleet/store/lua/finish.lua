-- The one final state of a deliberation whose decision is frozen and readable in the graph.
-- KEYS: deliberation, answers, attempts, due, finished, events
-- ARGV: id, status, retention s, decision, {subject, payload}…
-- Returns 1 if this call finished it.
local state = redis.call('HMGET', KEYS[1], 'status', 'decision')
if not open(state[1]) or not state[2] then return 0 end
local now = now_ms()
redis.call('HSET', KEYS[1], 'status', ARGV[2], 'decision', ARGV[4], 'finished_at_ms', now)
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZADD', KEYS[5], now, ARGV[1])
redis.call('HINCRBY', 'fleet:totals', string.lower(ARGV[2]), 1)
for i = 1, 3 do redis.call('EXPIRE', KEYS[i], ARGV[3]) end
append(KEYS[6], ARGV[1], 5)
return 1
