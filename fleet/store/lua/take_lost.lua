-- Hands out parts whose message must be lost: no worker holds it, and it was dispatched `age` ms or more before one that
-- has started since (lanes are first in, first out), or is that old while the lane is empty.
-- Each is handed out again only after another `age` ms.
-- KEYS: unstarted, watermark, lane, unacked   ARGV: age ms, most
local now = now_ms()
local limit = now
if redis.call('LLEN', KEYS[3]) > 0 then limit = tonumber(redis.call('GET', KEYS[2]) or 0) end
local parts = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', limit - ARGV[1], 'LIMIT', 0, ARGV[2])
if #parts == 0 then return parts end
local held = table.concat(redis.call('HVALS', KEYS[4]))   -- at most what the workers prefetch and run
local lost = {}
for _, part in ipairs(parts) do
  redis.call('ZADD', KEYS[1], now, part)
  if not string.find(held, part .. '"', 1, true) then lost[#lost + 1] = part end
end
return lost
