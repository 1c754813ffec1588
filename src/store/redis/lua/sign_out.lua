-- Makes what was opened until now void, for one user or a whole workspace.
-- KEYS: sign-out. ARGV: how long tokens may live (ms).
local now = time()
-- A server that took over may have a clock that is behind.
local latest = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0))
redis.call('SET', KEYS[1], string.format('%.0f', latest), 'PX', ARGV[1])
return 1
