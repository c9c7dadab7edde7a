-- KEYS chord, parts, due, task result
-- ARGV group, task or '' for the whole body, epoch or '' for any, seconds to remember, result or '', its seconds until it expires
-- Returns 1, or 0 if there was nothing to complete or another epoch owns it. What stays tells late copies to stop.
if redis.call('HGET', KEYS[1], 'state') ~= 'READY' then return 0 end
local task = ARGV[2]
if ARGV[3] ~= '' and redis.call('HGET', KEYS[1], 'epoch:' .. task) ~= ARGV[3] then return 0 end
if ARGV[5] ~= '' then store_result(KEYS[4], ARGV[5], ARGV[6]) end
if task ~= '' then
  if redis.call('HSETNX', KEYS[1], 'done:' .. task, 1) == 0 then return 0 end
  redis.call('HDEL', KEYS[1], 'lease:' .. task)
  local entries = tonumber(redis.call('HGET', KEYS[1], 'entries'))
  if redis.call('HINCRBY', KEYS[1], 'finished', 1) < entries then return 1 end
end
local size = redis.call('HGET', KEYS[1], 'size')
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('HSET', KEYS[1], 'state', 'DONE')
if size then redis.call('HSET', KEYS[1], 'size', size) end
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
