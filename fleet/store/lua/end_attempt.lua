-- A worker gives a part back without an answer, once.
-- KEYS: attempts   ARGV: step, agent, attempt, 1 if what ran it died of it
local part = ARGV[1] .. '.' .. ARGV[2]
local attempts = attempts_of(KEYS[1], part)
if not attempts.running[ARGV[3]] then return end
if ARGV[4] == '1' then count_death(attempts, ARGV[3], now_ms()) else attempts.running[ARGV[3]] = nil end
redis.call('HSET', KEYS[1], part, cjson.encode(attempts))
