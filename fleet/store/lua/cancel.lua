-- Ends a deliberation that is not decided yet. The decision says why; it has yet to be written to the graph.
-- KEYS: deliberation, due, finished, events   ARGV: id, step it is in, decision, {subject, payload}…
-- Returns 1 cancelled | 0 it has left that step, is decided or final.
local state = redis.call('HMGET', KEYS[1], 'status', 'step', 'decision')
if not open(state[1]) or state[2] ~= ARGV[2] or state[3] then return 0 end
local now = now_ms()
redis.call('HSET', KEYS[1], 'status', 'CANCELLED', 'step', 'record', 'sealed', 1, 'decision', ARGV[3], 'finished_at_ms', now)
redis.call('ZADD', KEYS[2], now + 5000, ARGV[1])   -- whoever cancels it has it recorded at once; else the watchdog does
redis.call('ZADD', KEYS[3], now, ARGV[1])
count_end(state[1], 'CANCELLED')
append(KEYS[4], ARGV[1], 4)
return 1
