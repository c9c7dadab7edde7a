-- One request of a caller, by the generic cell rate algorithm: the key holds when all its tokens will be back (µs).
-- KEYS: rate   ARGV: requests a minute
-- Returns {1 allowed | 0 refused, tokens left, ms until all are back, ms until the next one}
local time = redis.call('TIME')
local now, limit = time[1] * 1000000 + time[2], tonumber(ARGV[1])
local each, all = 60000000 / limit, 60000000
local full = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0))
local allowed = full + each - now <= all + 1   -- a fraction of a microsecond may be lost in rounding
if allowed then
  full = full + each
  redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
else
  redis.call('HINCRBY', 'fleet:totals', 'refused_rate', 1)
end
local left = math.max(0, math.floor((all - (full - now) + 1) / each))
return {allowed and 1 or 0, left, math.ceil((full - now) / 1000), math.max(0, math.ceil((full + each - now - all) / 1000))}
