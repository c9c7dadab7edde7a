-- Closes a step to late answers and stops the clock; safe to repeat until the next step is entered.
-- KEYS: deliberation, due   ARGV: id, step
-- Returns {1, budget ms left, now ms, started at ms or 0} or {0} when the deliberation is elsewhere by now.
local state = redis.call('HMGET', KEYS[1], 'status', 'step', 'sealed', 'deadline_ms', 'budget_ms', 'started_at_ms')
if not open(state[1]) or state[2] ~= ARGV[2] then return {0} end
local now = now_ms()
local budget = tonumber(state[5])
if state[3] == '0' then
  local deadline = tonumber(state[4] or 0)
  if deadline > 0 then budget = math.max(0, deadline - now) end
  redis.call('HSET', KEYS[1], 'sealed', 1, 'budget_ms', budget, 'deadline_ms', 0)
end
redis.call('ZADD', KEYS[2], now + 15000, ARGV[1])
return {1, budget, now, tonumber(state[6] or 0)}
