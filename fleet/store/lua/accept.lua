-- Stores a submission and its deliberations once. A submission is a plan, or one deliberation asked for by itself.
-- KEYS: submission, plans, deliberations, due, finished
-- ARGV: digest, document, time to live (s), plan id or '', most that may be open or 0, most memory to be used (‰),
--       number of deliberations, {id, task, budget ms}…
-- Returns {1 created | 0 same again | -1 other content | -2 too many are open | -3 too little memory, document}
local known = redis.call('HMGET', KEYS[1], 'digest', 'document')
if known[1] then
  return {known[1] == ARGV[1] and 0 or -1, known[2]}
end
for i = 8, 7 + 3 * ARGV[7], 3 do   -- asked for before, not as part of this submission
  if redis.call('EXISTS', 'fleet:deliberation:' .. ARGV[i]) == 1 then return {-1, ''} end
end
-- The last plan may go beyond the limit: one that is larger than the limit would wait for ever.
if ARGV[5] ~= '0' and count_open(KEYS[3], KEYS[5]) >= tonumber(ARGV[5]) then
  redis.call('HINCRBY', 'fleet:totals', 'refused_full', 1)
  return {-2, ''}
end
local memory = redis.call('INFO', 'memory')
local most = tonumber(memory:match('\nmaxmemory:(%d+)'))
if most > 0 and tonumber(memory:match('used_memory:(%d+)')) * 1000 > most * ARGV[6] then return {-3, ''} end
local now = now_ms()
redis.call('HSET', KEYS[1], 'digest', ARGV[1], 'document', ARGV[2], 'created_at_ms', now)
redis.call('EXPIRE', KEYS[1], ARGV[3])
if ARGV[4] ~= '' then
  redis.call('ZADD', KEYS[2], now, ARGV[4])
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[3] * 1000)   -- those have expired
end
for i = 8, 7 + 3 * ARGV[7], 3 do
  local id = ARGV[i]
  redis.call('HSET', 'fleet:deliberation:' .. id, 'task', ARGV[i + 1], 'budget_ms', ARGV[i + 2],
    'status', 'PENDING', 'step', 'propose:0', 'sealed', 0, 'count', 0, 'created_at_ms', now)
  redis.call('ZADD', KEYS[3], now, id)
  redis.call('ZREM', KEYS[5], id)   -- where one of the same id was, whose end is not forgotten yet
  redis.call('ZADD', KEYS[4], now + 5000, id)   -- whoever accepted it dispatches it at once; else the watchdog does
end
redis.call('HINCRBY', 'fleet:totals', 'accepted', ARGV[7])
return {1, ARGV[2]}
