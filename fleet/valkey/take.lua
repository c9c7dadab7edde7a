-- KEYS due   ARGV key prefix, key suffixes of chord and parts, limit, first and longest wait until the next attempt
-- Takes what is due and puts off its next attempt in the same step, so that two sweepers never take the same.
-- Returns a list of {group, snapshot}.
local taken = {}
local time = now()
for _, group in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', time, 'BYSCORE', 'LIMIT', 0, ARGV[4])) do
  local chord, parts = ARGV[1] .. group .. ARGV[2], ARGV[1] .. group .. ARGV[3]
  local record = redis.call('HMGET', chord, 'state', 'deadline')
  if record[1] == 'OPEN' and tonumber(record[2]) > time then
    redis.call('ZADD', KEYS[1], record[2], group)
  elseif record[1] == 'OPEN' or record[1] == 'READY' then
    if record[1] == 'OPEN' then redis.call('HSET', chord, 'state', 'READY', 'late', 1) end
    local attempt = redis.call('HINCRBY', chord, 'swept', 1)
    redis.call('ZADD', KEYS[1], time + math.min(tonumber(ARGV[5]) * 2 ^ (attempt - 1), tonumber(ARGV[6])), group)
    taken[#taken + 1] = {group, snapshot(chord, parts)}
  else
    redis.call('ZREM', KEYS[1], group)
  end
end
return taken
