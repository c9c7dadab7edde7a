-- KEYS chord, due   ARGV group, task, epoch, lease in seconds
-- Returns 1 if the claim is still this epoch's, else 0.
if redis.call('HGET', KEYS[1], 'epoch:' .. ARGV[2]) ~= ARGV[3] then return 0 end
if redis.call('HEXISTS', KEYS[1], 'lease:' .. ARGV[2]) == 0 then return 0 end
lease_until(KEYS[1], KEYS[2], ARGV[1], ARGV[2], now() + tonumber(ARGV[4]))
return 1
