-- KEYS: due   ARGV: id, in how many ms
return redis.call('ZADD', KEYS[1], now_ms() + ARGV[2], ARGV[1])
