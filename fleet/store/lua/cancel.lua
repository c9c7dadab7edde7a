-- Ends a deliberation that is not decided yet. The decision says why; it has yet to be written to the graph.
-- KEYS: deliberation, answers, due, finished, events
-- ARGV: id, step it is in, decision, its start or '', number of answers it knows, {subject, payload}…
-- Returns 1 cancelled, also when it is asked again after a lost answer | 0 more has happened than the decision knows.
local state = redis.call('HMGET', KEYS[1], 'status', 'step', 'decision', 'started_at_ms')
if state[1] == 'CANCELLED' and state[3] == ARGV[3] then return 1 end
if not open(state[1]) or state[2] ~= ARGV[2] or state[3] then return 0 end
if (state[4] or '') ~= ARGV[4] or redis.call('HLEN', KEYS[2]) ~= tonumber(ARGV[5]) then return 0 end
local now = now_ms()
redis.call('HSET', KEYS[1], 'status', 'CANCELLED', 'step', 'record', 'sealed', 1, 'decision', ARGV[3], 'finished_at_ms', now)
redis.call('ZADD', KEYS[3], now + 5000, ARGV[1])   -- whoever cancels it has it recorded at once; else the watchdog does
redis.call('ZADD', KEYS[4], now, ARGV[1])
count_end(state[1], 'CANCELLED')
append(KEYS[5], ARGV[1], 6)
return 1
