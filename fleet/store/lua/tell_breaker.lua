-- What came of asking an endpoint. Before the breaker is open everything counts, then only what the one says that tries.
-- KEYS: breaker, breakers
-- ARGV: endpoint, attempt, 1 if it answered, ms that it took, reason or '', failures in a row that open it,
--       ms until the next try, most of them, least that the endpoint asks for, time to live (s)
-- Returns {state, failures in a row, ms until the next try, 1 if this changed the state}
local state = redis.call('HMGET', KEYS[1], 'state', 'failures', 'failing_since_ms', 'openings', 'probe', 'probe_at_ms')
local before, probes = state[1] or 'closed', state[1] == 'half-open' and state[5] == ARGV[2]
local now, failures = now_ms(), tonumber(state[2] or 0)
if ARGV[3] == '1' then
  if before ~= 'closed' and not probes then return {before, failures, math.max(0, state[6] - now), 0} end
  if failures > 0 then
    redis.call('HDEL', KEYS[1], 'failing_since_ms', 'openings', 'probe', 'probe_key', 'probe_part', 'probe_at_ms', 'reason')
    redis.call('HSET', KEYS[1], 'state', 'closed', 'failures', 0)
    if probes then redis.call('HSET', KEYS[1], 'since_ms', now) end
  end
  return {'closed', failures, 0, probes and 1 or 0}
end
failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
redis.call('HSET', KEYS[1], 'state', before, 'reason', ARGV[5],
  'failing_since_ms', math.min(tonumber(state[3] or now), now - ARGV[4]))
redis.call('HSETNX', KEYS[1], 'since_ms', now)
redis.call('EXPIRE', KEYS[1], ARGV[10])
redis.call('ZADD', KEYS[2], now, ARGV[1])
if not probes and (before ~= 'closed' or failures < tonumber(ARGV[6])) then
  return {before, failures, before == 'open' and math.max(0, state[6] - now) or 0, 0}
end
local openings = redis.call('HINCRBY', KEYS[1], 'openings', 1)
local wait = math.max(math.min(ARGV[7] * 2 ^ (openings - 1), tonumber(ARGV[8])), tonumber(ARGV[9]))
redis.call('HSET', KEYS[1], 'state', 'open', 'since_ms', now, 'probe_at_ms', math.floor(now + wait))
return {'open', failures, math.floor(wait), 1}
