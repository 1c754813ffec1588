-- Takes permits out of a workspace's bucket, as many as it has of those that are wanted (GCRA).
-- KEYS: the theoretical arrival time. ARGV: permits, period (ns), tolerance (us), life of an idle bucket (ms).
-- Returns: the permits taken, those that are left, and the time until there is one (us).
local now = time()
local wanted, period = tonumber(ARGV[1]), tonumber(ARGV[2])
local period_up = math.ceil(period / 1000)
local tolerance = math.max(tonumber(ARGV[3]), period_up)
-- An absent bucket is empty: it may have been forgotten.
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or now + tolerance), now)

local function room()
  return math.floor(math.max(now + tolerance - arrival, 0) * 1000 / period)
end

local permits = math.min(room(), wanted)
arrival = arrival + math.ceil(permits * period / 1000)
redis.call('SET', KEYS[1], string.format('%.0f', arrival), 'PX', ARGV[4])
return {permits, room(), math.max(arrival + period_up - now - tolerance, 0)}
