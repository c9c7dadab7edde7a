-- Everything that the deliberation waits for is with the broker, or there is nothing left to wait for.
-- KEYS: deliberation, due   ARGV: id, step that is open or ''
local state = redis.call('HMGET', KEYS[1], 'status', 'step', 'sealed')
if ARGV[2] ~= '' and (not open(state[1]) or state[2] ~= ARGV[2] or state[3] ~= '0') then return 0 end
return redis.call('ZREM', KEYS[2], ARGV[1])
