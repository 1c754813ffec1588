-- Empties a workspace's bucket: a broker that joins may have used its share until now.
-- KEYS: the theoretical arrival time. ARGV: tolerance (us), life of an idle bucket (ms).
local empty = time() + tonumber(ARGV[1])
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), empty)
redis.call('SET', KEYS[1], string.format('%.0f', arrival), 'PX', ARGV[2])
return 1
