-- Hands out deliberations that are due, each to one caller, which has `lease` ms before it is due again.
-- KEYS: due   ARGV: lease ms, most
local now = now_ms()
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do redis.call('ZADD', KEYS[1], now + ARGV[1], id) end
return ids
