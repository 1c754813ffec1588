-- Empties a workspace's bucket: a broker that joins may have used its share until now.
-- KEYS: the bucket. ARGV: tolerance (us), life of an idle bucket (ms).
local now, tolerance = time(), tonumber(ARGV[1])
local empty = now + tolerance
keep(math.max(arrival(now, tolerance, empty), empty), tolerance, ARGV[2])
return 1
