-- The store's time, in microseconds since 1970. No script uses another clock.
local function time()
  local now = redis.call('TIME')
  return now[1] * 1000000 + now[2]
end
