-- A worker gives a part back without an answer, once.
-- KEYS: deliberation, attempts   ARGV: step, agent, attempt, 1 if what ran it died of it
local part = ARGV[1] .. '.' .. ARGV[2]
if not open(redis.call('HGET', KEYS[1], 'status')) then return end
local attempts = attempts_of(KEYS[2], part)
if not attempts.running[ARGV[3]] then return end
attempts.running[ARGV[3]] = nil
attempts.deaths = attempts.deaths + ARGV[4]
redis.call('HSET', KEYS[2], part, cjson.encode(attempts))
