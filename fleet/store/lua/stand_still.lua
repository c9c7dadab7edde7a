-- A part waits behind an open breaker: its deliberation's clock stands still from the beginning of the outage on.
-- The next part that starts lets it run on, with what was left (start_part).
-- KEYS: deliberation, answers, unstarted, watermark, waiting
-- ARGV: id, step, agent, failing since (ms), longest wait of a step (ms), ms after which one that waits is forgotten
-- Returns {0} if nobody wants the part or the step has waited for longest, else {1, 1 if this stopped the clock, until when the step may wait (ms)}
local state = redis.call('HMGET', KEYS[1], 'status', 'step', 'sealed', 'deadline_ms', 'budget_ms', 'opened:' .. ARGV[2])
local part = ARGV[2] .. '.' .. ARGV[3]
local dispatched = redis.call('ZSCORE', KEYS[3], ARGV[1] .. '.' .. part)
if dispatched then   -- its message came, and is held or goes back to the end of its lane
  redis.call('ZREM', KEYS[3], ARGV[1] .. '.' .. part)
  if tonumber(dispatched) > tonumber(redis.call('GET', KEYS[4]) or 0) then redis.call('SET', KEYS[4], dispatched) end
end
local now, deadline = now_ms(), tonumber(state[4] or 0)
local until_ms = math.max(deadline, tonumber(state[6] or now) + ARGV[5])
if not open(state[1]) or state[2] ~= ARGV[2] or state[3] ~= '0' or redis.call('HEXISTS', KEYS[2], part) == 1
  or until_ms <= now then
  redis.call('ZREM', KEYS[5], ARGV[1])
  return {0}
end
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now - ARGV[6])
redis.call('ZADD', KEYS[5], now, ARGV[1])
redis.call('EXPIRE', KEYS[5], 3600)
if deadline > 0 then   -- the clock ran since deadline - budget
  local left = math.max(0, math.min(tonumber(state[5]), deadline - math.min(ARGV[4], now)))
  redis.call('HSET', KEYS[1], 'deadline_ms', 0, 'budget_ms', left)
end
return {1, deadline > 0 and 1 or 0, until_ms}
