-- Stands before every script.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
-- Whether a deliberation with this status still takes answers.
local function open(status) return status == 'PENDING' or status == 'IN_PROGRESS' end
-- How many deliberations are not final yet: what is accepted is in the one index, what is final in both.
local function count_open(deliberations, finished)
  return redis.call('ZCARD', deliberations) - redis.call('ZCARD', finished)
end
-- Counts a deliberation that became final; `before` was its status until now.
local function count_end(before, status)
  redis.call('HINCRBY', 'fleet:totals', string.lower(status), 1)
  if before == 'IN_PROGRESS' then redis.call('HINCRBY', 'fleet:totals', 'in_progress', -1) end
end
-- Appends {subject, payload}… = ARGV[first]… to the event log and, under the same id, to the deliberation's own events.
local function append(events, deliberation, first)
  for i = first, #ARGV, 2 do
    local id = redis.call('XADD', events, '*', 'v', 1, 'subject', ARGV[i], 'payload', ARGV[i + 1], 'deliberation_id', deliberation)
    redis.call('XADD', 'fleet:deliberation:' .. deliberation .. ':events', id, 'v', 1, 'subject', ARGV[i], 'payload', ARGV[i + 1])
  end
end

-- How often what ran a part died, each death of which that is known, and when each attempt that may still run was heard
-- of last. Its first format was a mere number of starts, which says nothing about deaths.
local function attempts_of(key, part)
  local known = cjson.decode(redis.call('HGET', key, part) or '0')
  return type(known) == 'table' and known or {deaths = 0, running = {}}
end
local function count_death(attempts, attempt, at)
  attempts.running[attempt] = nil
  attempts.deaths = attempts.deaths + 1
  attempts.history = attempts.history or {}
  table.insert(attempts.history, {attempt = attempt, at_ms = at})
end
-- Who was not heard of for so long has died.
local function count_silent(attempts, now, dead_after)
  for attempt, seen in pairs(attempts.running) do
    if now - seen > tonumber(dead_after) then count_death(attempts, attempt, seen) end
  end
end
