-- Registers the parts of the current step that have no answer yet as dispatched.
-- KEYS: deliberation, answers, unstarted, events, queues
-- ARGV: id, step, queue, model or '', number of agents, agents…, {subject, payload} per agent
-- Returns the agents whose parts are to be published; nothing if the step is not open any more.
local state = redis.call('HMGET', KEYS[1], 'status', 'step', 'sealed')
if not open(state[1]) or state[2] ~= ARGV[2] or state[3] ~= '0' then return {} end
local now = now_ms()
local first = redis.call('HSETNX', KEYS[1], 'opened:' .. ARGV[2], now) == 1
redis.call('HSET', KEYS[5], ARGV[3], ARGV[4])
local count, missing = tonumber(ARGV[5]), {}
for i = 1, count do
  local agent = ARGV[5 + i]
  if redis.call('HEXISTS', KEYS[2], ARGV[2] .. '.' .. agent) == 0 then
    missing[#missing + 1] = agent
    redis.call('ZADD', KEYS[3], now, ARGV[1] .. '.' .. ARGV[2] .. '.' .. agent)
  end
end
if first then
  append(KEYS[4], ARGV[1], 6 + count)
end
return missing
