-- A worker says that it runs a part, or a task of the council, whose step is "council" and which is always wanted.
-- A worker that is about to end says so too: its end is no death.
-- KEYS: deliberation, attempts   ARGV: step, agent, attempt, 1 if the worker is about to end
-- Returns 1 if the part's answer is not wanted any more.
local state = redis.call('HMGET', KEYS[1], 'status', 'step', 'sealed')
local wanted = state[1] == 'IN_PROGRESS' and state[2] == ARGV[1] and state[3] == '0'
if not wanted and ARGV[1] ~= 'council' then return 1 end
local part = ARGV[1] .. '.' .. ARGV[2]
local attempts = attempts_of(KEYS[2], part)
if not attempts.running[ARGV[3]] then return 0 end
attempts.running[ARGV[3]] = ARGV[4] == '0' and now_ms() or nil
redis.call('HSET', KEYS[2], part, cjson.encode(attempts))
return 0
