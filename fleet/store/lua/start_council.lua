-- A task of the council asks whether it may work on a deliberation, which one at a time does.
-- KEYS: deliberation, attempts, due
-- ARGV: id, attempt, most deaths, ms without a word that are a death
-- Returns {verdict, each death that is known}
-- verdict: run | busy (the watchdog comes back when the other one has ended or died) | exhausted | over
local state = redis.call('HMGET', KEYS[1], 'status', 'recorded')
if not state[1] or state[2] then return {'over', '{}'} end
local now = now_ms()
local attempts = attempts_of(KEYS[2], 'council.*')
attempts.running[ARGV[2]] = nil   -- the same one asks again after a lost answer
count_silent(attempts, now, ARGV[4])
local verdict = 'run'
if attempts.deaths >= tonumber(ARGV[3]) then
  verdict = 'exhausted'
elseif next(attempts.running) then
  verdict = 'busy'
  redis.call('ZADD', KEYS[3], now + ARGV[4], ARGV[1])
else
  attempts.running[ARGV[2]] = now
end
redis.call('HSET', KEYS[2], 'council.*', cjson.encode(attempts))
return {verdict, cjson.encode(attempts.history or {})}
