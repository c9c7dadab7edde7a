-- Keeps the first answer of a part while its step is open.
-- KEYS: deliberation, answers, events   ARGV: id, step, agent, answer, 1 if it is a valid proposal, {subject, payload}…
-- Returns 1 if it was kept.
local state = redis.call('HMGET', KEYS[1], 'status', 'step', 'sealed')
if state[1] ~= 'IN_PROGRESS' or state[2] ~= ARGV[2] or state[3] ~= '0' then return 0 end
if redis.call('HSETNX', KEYS[2], ARGV[2] .. '.' .. ARGV[3], ARGV[4]) == 0 then return 0 end
if ARGV[5] == '1' then redis.call('HINCRBY', KEYS[1], 'count', 1) end
append(KEYS[3], ARGV[1], 6)
return 1
