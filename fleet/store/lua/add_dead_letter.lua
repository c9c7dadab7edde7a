-- KEYS: dead letter, dead letters, events   ARGV: id, document, subject, payload
-- Returns 1 if it was not there yet.
if redis.call('SET', KEYS[1], ARGV[2], 'NX') == false then return 0 end
redis.call('ZADD', KEYS[2], now_ms(), ARGV[1])
redis.call('XADD', KEYS[3], '*', 'v', 1, 'subject', ARGV[3], 'payload', ARGV[4])
redis.call('HINCRBY', 'fleet:totals', 'dead_letters', 1)
return 1
