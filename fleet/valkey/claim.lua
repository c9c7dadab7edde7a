-- KEYS chord, due   ARGV group, task, retries, lease in seconds
-- Returns {epoch, number of workers lost so far}, or {0, reason}.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return {0, 'unknown'} end
if state ~= 'READY' or redis.call('HEXISTS', KEYS[1], 'done:' .. ARGV[2]) == 1 then return {0, 'done'} end
local held = redis.call('HMGET', KEYS[1], 'lease:' .. ARGV[2], 'retries:' .. ARGV[2])
local retries, recorded, time = tonumber(ARGV[3]), tonumber(held[2] or 0), now()
if retries < recorded then return {0, 'retried'} end
if retries > recorded then
  -- Only the holder itself can have asked for a retry, so its lease need not run out.
  redis.call('HSET', KEYS[1], 'retries:' .. ARGV[2], retries, 'lost:' .. ARGV[2], 0)
elseif held[1] then
  if tonumber(held[1]) > time then return {0, 'running'} end
  redis.call('HINCRBY', KEYS[1], 'lost:' .. ARGV[2], 1)
end
lease_until(KEYS[1], KEYS[2], ARGV[1], ARGV[2], time + tonumber(ARGV[4]))
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch:' .. ARGV[2], 1)
return {epoch, tonumber(redis.call('HGET', KEYS[1], 'lost:' .. ARGV[2]) or 0)}
