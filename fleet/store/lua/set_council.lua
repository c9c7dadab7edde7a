-- Replaces a role's council if it is still the one that the caller has seen; a change that is sent again is done once.
-- A deleted council leaves an empty text.
-- KEYS: councils, change   ARGV: role, document seen or '', document or '', time to live of the change (s)
-- Returns {document before, document after} this change, whenever it was done | {} the council is another by now
local done = redis.call('HMGET', KEYS[2], 'before', 'after')
if done[1] then return done end
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return {} end
if ARGV[2] ~= ARGV[3] then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
  redis.call('HSET', KEYS[2], 'before', ARGV[2], 'after', ARGV[3])
  redis.call('EXPIRE', KEYS[2], ARGV[4])
end
return {ARGV[2], ARGV[3]}
