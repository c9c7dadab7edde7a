-- KEYS: dead letter, dead letters, events   ARGV: id, document, subject, payload
-- Returns 1 if it was not there yet.
if redis.call('SET', KEYS[1], ARGV[2], 'NX') == false then return 0 end
local time = redis.call('TIME')
redis.call('ZADD', KEYS[2], time[1] * 1000 + math.floor(time[2] / 1000), ARGV[1])
redis.call('XADD', KEYS[3], '*', 'subject', ARGV[3], 'payload', ARGV[4])
return 1
