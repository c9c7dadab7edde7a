-- KEYS due   ARGV key prefix, key suffixes of chord and parts, limit, first and longest wait until the next attempt
-- Takes what is due and puts off its next attempt in the same step, so that two sweepers never take the same.
-- Returns a list of {group, snapshot}.

-- For a group as body, whose tasks have a lease each: when to look again if nothing is to be done now. Something is if a
-- lease ran out since the last attempt, or if a task is still unclaimed when its next attempt is due.
local function group_rests_until(chord, time)
  local entries = tonumber(redis.call('HGET', chord, 'entries'))
  if entries < 2 then return nil end
  local record = redis.call('HMGET', chord, 'last', 'next', 'finished')
  local last, next_attempt = tonumber(record[1] or 0), tonumber(record[2] or 0)
  local claimed, earliest = tonumber(record[3] or 0), math.huge
  local fields = redis.call('HGETALL', chord)
  for index = 1, #fields, 2 do
    if string.sub(fields[index], 1, 6) == 'lease:' then
      local lease = tonumber(fields[index + 1])
      if lease > time then
        claimed, earliest = claimed + 1, math.min(earliest, lease)
      elseif lease > last then
        return nil
      end
    end
  end
  if claimed == entries then return earliest end
  if time < next_attempt then return math.min(earliest, next_attempt) end
  return nil
end

local taken = {}
local time = now()
for _, group in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', time, 'BYSCORE', 'LIMIT', 0, ARGV[4])) do
  local chord, parts = ARGV[1] .. group .. ARGV[2], ARGV[1] .. group .. ARGV[3]
  local record = redis.call('HMGET', chord, 'state', 'deadline')
  local rest = nil
  if record[1] == 'OPEN' and tonumber(record[2]) > time then rest = record[2] end
  if record[1] == 'READY' then rest = group_rests_until(chord, time) end
  if record[1] ~= 'OPEN' and record[1] ~= 'READY' then
    redis.call('ZREM', KEYS[1], group)
  elseif rest then
    redis.call('ZADD', KEYS[1], rest, group)
  else
    if record[1] == 'OPEN' then redis.call('HSET', chord, 'state', 'READY', 'late', 1) end
    local attempt = redis.call('HINCRBY', chord, 'swept', 1)
    local next_attempt = time + math.min(tonumber(ARGV[5]) * 2 ^ (attempt - 1), tonumber(ARGV[6]))
    redis.call('HSET', chord, 'last', time, 'next', next_attempt)
    redis.call('ZADD', KEYS[1], next_attempt, group)
    taken[#taken + 1] = {group, snapshot(chord, parts)}
  end
end
return taken
