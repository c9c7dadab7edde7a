-- Whether an endpoint may be asked. Of those who wait for an open breaker one, when it is time, is to try.
-- KEYS: breaker, attempts of the caller's deliberation
-- ARGV: step.agent, attempt, ms without a word of the one that tries after which another may
-- Returns {1 ask | 0 wait, failing since (ms) or 0, 1 if it is the one that tries}
local state = redis.call('HMGET', KEYS[1], 'state', 'failing_since_ms', 'probe_at_ms', 'probe', 'probe_key', 'probe_part')
if not state[1] or state[1] == 'closed' then return {1, 0, 0} end
local now, since = now_ms(), tonumber(state[2] or 0)
local function probing()
  if now - state[3] <= tonumber(ARGV[3]) then return true end
  local seen = attempts_of(state[5], state[6]).running[state[4]]
  return seen and now - seen <= tonumber(ARGV[3])
end
if state[1] == 'open' then
  if now < tonumber(state[3]) then return {0, since, 0} end
  redis.call('HSET', KEYS[1], 'state', 'half-open', 'since_ms', now)
elseif state[4] ~= ARGV[2] and probing() then
  return {0, since, 0}
end
redis.call('HSET', KEYS[1], 'probe_at_ms', now, 'probe', ARGV[2], 'probe_key', KEYS[2], 'probe_part', ARGV[1])
return {1, since, 1}
