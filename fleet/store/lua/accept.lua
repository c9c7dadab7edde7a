-- Stores a submission and its deliberations once. A submission is a plan, or one deliberation asked for by itself.
-- KEYS: submission, plans, deliberations, due, events
-- ARGV: digest, document, time to live (s), plan id or '', number of deliberations, {id, task, budget ms}…
-- Returns {1 created | 0 same again | -1 other content, document}
local known = redis.call('HMGET', KEYS[1], 'digest', 'document')
if known[1] then
  return {known[1] == ARGV[1] and 0 or -1, known[2]}
end
for i = 6, 5 + 3 * ARGV[5], 3 do   -- asked for before, not as part of this submission
  if redis.call('EXISTS', 'fleet:deliberation:' .. ARGV[i]) == 1 then return {-1, ''} end
end
local now = now_ms()
redis.call('HSET', KEYS[1], 'digest', ARGV[1], 'document', ARGV[2], 'created_at_ms', now)
redis.call('EXPIRE', KEYS[1], ARGV[3])
if ARGV[4] ~= '' then redis.call('ZADD', KEYS[2], now, ARGV[4]) end
for i = 6, 5 + 3 * ARGV[5], 3 do
  local id = ARGV[i]
  redis.call('HSET', 'fleet:deliberation:' .. id, 'task', ARGV[i + 1], 'budget_ms', ARGV[i + 2],
    'status', 'PENDING', 'step', 'propose:0', 'sealed', 0, 'count', 0, 'created_at_ms', now)
  redis.call('ZADD', KEYS[3], now, id)
  redis.call('ZADD', KEYS[4], now + 5000, id)   -- whoever accepted it dispatches it at once; else the watchdog does
end
redis.call('HINCRBY', 'fleet:totals', 'accepted', ARGV[5])
return {1, ARGV[2]}
