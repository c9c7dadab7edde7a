-- Moves the relay's cursor if the lease is still the caller's, and trims the log behind it.
-- KEYS: lease, cursor, events   ARGV: holder, cursor, entries to keep
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
local kept = tonumber(ARGV[3])
if redis.call('XLEN', KEYS[3]) > kept + 1000 then
  local newest = redis.call('XREVRANGE', KEYS[3], ARGV[2], '-', 'COUNT', kept)
  if #newest == kept then redis.call('XTRIM', KEYS[3], 'MINID', newest[kept][1]) end
end
return 1
