-- A task of the council asks whether it may work on a deliberation, which one at a time does.
-- KEYS: deliberation, attempts, due
-- ARGV: id, attempt, most deaths, how many the caller knows of, ms without a word that are a death
-- Returns {verdict, deaths, each death that is known}
-- verdict: run | busy (the watchdog comes back when the other one has ended or died) | exhausted | over
--          suspect (it was in more deaths than the caller knows of)
local state = redis.call('HMGET', KEYS[1], 'status', 'recorded')
if not state[1] or state[2] then return {'over', 0, '{}'} end
local now = now_ms()
local attempts = attempts_of(KEYS[2], 'council.*')
attempts.running[ARGV[2]] = nil   -- the same one asks again after a lost answer
count_silent(attempts, now, ARGV[5])
local verdict = 'run'
if attempts.deaths >= tonumber(ARGV[3]) then
  verdict = 'exhausted'
elseif next(attempts.running) then
  verdict = 'busy'
  redis.call('ZADD', KEYS[3], now + ARGV[5], ARGV[1])
elseif attempts.deaths > tonumber(ARGV[4]) then
  verdict = 'suspect'
else
  attempts.running[ARGV[2]] = now
end
redis.call('HSET', KEYS[2], 'council.*', cjson.encode(attempts))
return {verdict, attempts.deaths, cjson.encode(attempts.history or {})}
