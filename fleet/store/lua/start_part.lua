-- An agent asks whether its part is still wanted; the first one starts the deliberation's clock.
-- KEYS: deliberation, answers, attempts, unstarted, watermark, events
-- ARGV: id, step, agent, attempt, most deaths, how many the caller knows of, ms without a word that are a death,
--       subject and payload of the started event
-- Returns {verdict, task, deadline ms, remaining ms, 1 if the step's chord has yet to hear of the deadline, deaths,
--          each death that is known}
-- verdict: run | suspect (it was in more deaths than the caller knows of) | exhausted | unwanted
local state = redis.call('HMGET', KEYS[1], 'status', 'step', 'sealed', 'deadline_ms', 'budget_ms', 'task')
local part = ARGV[2] .. '.' .. ARGV[3]
local member = ARGV[1] .. '.' .. part
local dispatched = redis.call('ZSCORE', KEYS[4], member)
if dispatched then
  redis.call('ZREM', KEYS[4], member)
  if tonumber(dispatched) > tonumber(redis.call('GET', KEYS[5]) or 0) then redis.call('SET', KEYS[5], dispatched) end
end
if not open(state[1]) or state[2] ~= ARGV[2] or state[3] ~= '0'
    or redis.call('HEXISTS', KEYS[2], part) == 1 then
  return {'unwanted'}
end
local now = now_ms()
if state[1] == 'PENDING' then
  redis.call('HSET', KEYS[1], 'status', 'IN_PROGRESS', 'started_at_ms', now)
  redis.call('HINCRBY', 'fleet:totals', 'in_progress', 1)
  append(KEYS[6], ARGV[1], 8)
end
local deadline = tonumber(state[4] or 0)
local first = deadline == 0
if first then
  deadline = now + state[5]
  redis.call('HSET', KEYS[1], 'deadline_ms', deadline)
end
local attempts = attempts_of(KEYS[3], part)
local again = attempts.deaths > 0 or next(attempts.running) ~= nil
count_silent(attempts, now, ARGV[7])
local verdict = 'run'
if attempts.deaths >= tonumber(ARGV[5]) then
  verdict = 'exhausted'
elseif attempts.deaths > tonumber(ARGV[6]) then
  verdict = 'suspect'
else
  attempts.running[ARGV[4]] = now
end
redis.call('HSET', KEYS[3], part, cjson.encode(attempts))
return {verdict, state[6], deadline, math.max(0, deadline - now), (first or again) and 1 or 0, attempts.deaths,
  cjson.encode(attempts.history or {})}
