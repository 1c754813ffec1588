-- The members are a hash: for each member when it was seen, whether it has beaten, whether it was a member before the
-- list was made, and its last two shares; `founded`, when the list was made; `remembered` and `largest`, how many
-- members the brokers remember from before, and the largest share of one.
local WHOLE = 720720

local function number(field)
  return tonumber(redis.call('HGET', KEYS[1], field) or 0)
end

local function write(field, value)
  redis.call('HSET', KEYS[1], field, string.format('%.0f', value))
end

local function parse(text)
  local seen, beaten, remembered, last, before = string.match(text or '', '^(%d+) (%d) (%d) (%d+) (%d+)$')
  return seen and {
    seen = tonumber(seen),
    has_beaten = beaten == '1',
    is_remembered = remembered == '1',
    last = tonumber(last),
    before = tonumber(before),
  }
end

local function put(id, member)
  local beaten, remembered = member.has_beaten and 1 or 0, member.is_remembered and 1 or 0
  local text = string.format('%.0f %d %d %.0f %.0f', member.seen, beaten, remembered, member.last, member.before)
  redis.call('HSET', KEYS[1], id, text)
end

local function is_near(one, other, span)
  return math.abs(one - other) <= span
end
