-- The one final state of a deliberation whose decision is frozen and readable in the graph.
-- KEYS: deliberation, answers, attempts, due, finished, events
-- ARGV: id, status, retention s, decision, {subject, payload}…
-- Returns 1 if this call finished it.
local state = redis.call('HMGET', KEYS[1], 'status', 'decision')
if (state[1] ~= 'PENDING' and state[1] ~= 'IN_PROGRESS') or not state[2] then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'status', ARGV[2], 'decision', ARGV[4], 'finished_at_ms', now)
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZADD', KEYS[5], now, ARGV[1])
for i = 1, 3 do redis.call('EXPIRE', KEYS[i], ARGV[3]) end
for i = 5, #ARGV, 2 do
  redis.call('XADD', KEYS[6], '*', 'subject', ARGV[i], 'payload', ARGV[i + 1], 'deliberation_id', ARGV[1])
end
return 1
