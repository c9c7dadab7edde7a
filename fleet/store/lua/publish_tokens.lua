-- Publishes what agents write, in order. Returns how many of the messages somebody heard.
-- ARGV: {channel, message}…
local heard = 0
for i = 1, #ARGV, 2 do
  if redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) > 0 then heard = heard + 1 end
end
return heard
