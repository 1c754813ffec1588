-- The bucket of a workspace is its theoretical arrival time, and the tolerance that it was counted with (us).
-- The arrival time for this tolerance; `empty` if the bucket is absent: it may have been forgotten. For another budget
-- the same part of the burst is left, so that neither a wait nor a burst of the old one outlives it.
local function arrival(now, tolerance, empty)
  local at, counted = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (%d+)$')
  at, counted = tonumber(at), tonumber(counted)
  if not at then
    return empty
  elseif counted == tolerance then
    return at
  end
  local used = math.min(math.max(at - now, 0), counted)
  return now + math.ceil(used * tolerance / counted)
end

local function keep(at, tolerance, life)
  redis.call('SET', KEYS[1], string.format('%.0f %.0f', at, tolerance), 'PX', life)
end
