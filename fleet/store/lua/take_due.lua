-- Hands out deliberations that are due, each to one caller, which has `lease` ms before it is due again.
-- KEYS: due
-- ARGV: lease ms, most, step of which one is enough ('' for none), in how many ms the others of it are due again
local now = now_ms()
local found, enough = {}, false
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])) do
  local one = ARGV[3] ~= '' and redis.call('HGET', 'fleet:deliberation:' .. id, 'step') == ARGV[3]
  local later = one and enough
  enough = enough or one
  redis.call('ZADD', KEYS[1], now + (later and ARGV[4] or ARGV[1]), id)
  if not later then found[#found + 1] = id end
end
return found
