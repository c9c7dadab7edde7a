-- Replaces a role's council if it is still the one that the caller has seen. A deleted one leaves an empty text.
-- KEYS: councils   ARGV: role, document seen or '', document or ''
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
