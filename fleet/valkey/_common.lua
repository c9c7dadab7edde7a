-- Prepended to every script. Times are ValKey's own, in unix seconds: the clocks of the workers' machines differ.

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1e6
end

-- All that a finisher needs to publish the body.
local function snapshot(chord, parts)
  return {redis.call('HGETALL', chord), redis.call('HGETALL', parts)}
end

local function all_arrived(chord, parts)
  local size = redis.call('HMGET', chord, 'size', 'added')
  if not size[1] then return false end
  return redis.call('HLEN', parts) >= tonumber(size[1]) + tonumber(size[2] or 0)
end

-- The caller publishes the body at once; if it dies first, a sweeper does so after `grace` seconds.
local function close(chord, parts, due, group, grace)
  redis.call('HSET', chord, 'state', 'READY')
  redis.call('ZADD', due, now() + grace, group)
  return snapshot(chord, parts)
end

local function store_result(key, meta, expires)
  if tonumber(expires) > 0 then
    redis.call('SETEX', key, expires, meta)
  else
    redis.call('SET', key, meta)
  end
  redis.call('PUBLISH', key, meta)
end

-- The time to act next: a body of one task has only its own, of a group's tasks the earliest counts.
local function act_at(chord, due, group, time)
  if redis.call('HGET', chord, 'entries') == '1' then
    redis.call('ZADD', due, time, group)
  else
    redis.call('ZADD', due, 'LT', time, group)
  end
end

local function lease_until(chord, due, group, task, time)
  redis.call('HSET', chord, 'lease:' .. task, time)
  act_at(chord, due, group, time)
end
