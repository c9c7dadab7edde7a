-- The one final state of a deliberation whose decision is frozen and readable in the graph. One that was cancelled has
-- its final state and its event already: only that the graph has it is noted.
-- KEYS: deliberation, answers, attempts, own events, due, finished, events
-- ARGV: id, status, retention s, decision, {subject, payload}…
-- Returns 1 if this call finished it.
local state = redis.call('HMGET', KEYS[1], 'status', 'decision', 'recorded')
if not state[2] or state[3] or not (open(state[1]) or state[1] == 'CANCELLED') then return 0 end
if state[1] ~= 'CANCELLED' then
  local now = now_ms()
  redis.call('HSET', KEYS[1], 'status', ARGV[2], 'decision', ARGV[4], 'finished_at_ms', now)
  redis.call('ZADD', KEYS[6], now, ARGV[1])
  count_end(state[1], ARGV[2])
  append(KEYS[7], ARGV[1], 5)
end
redis.call('HSET', KEYS[1], 'recorded', 1)
redis.call('ZREM', KEYS[5], ARGV[1])
for i = 1, 4 do redis.call('EXPIRE', KEYS[i], ARGV[3]) end
return 1
