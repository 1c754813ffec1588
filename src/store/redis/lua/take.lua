-- Takes permits out of a workspace's bucket, as many as it has of those that are wanted (GCRA).
-- KEYS: the bucket. ARGV: permits, period (ns), tolerance (us), life of an idle bucket (ms).
-- Returns: the permits taken, those that are left, and the time until there is one (us).
local now = time()
local wanted, period, budget = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local period_up = math.ceil(period / 1000)
local tolerance = math.max(budget, period_up)
local at = math.max(arrival(now, budget, now + tolerance), now)

local function room()
  return math.floor(math.max(now + tolerance - at, 0) * 1000 / period)
end

local permits = math.min(room(), wanted)
at = at + math.ceil(permits * period / 1000)
keep(at, budget, ARGV[4])
return {permits, room(), math.max(at + period_up - now - tolerance, 0)}
