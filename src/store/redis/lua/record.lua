-- A record is: when it ends and when it was opened (16 digits each, in microseconds), the token's print (16 bytes),
-- and the sealed rest.
local function ends(record)
  return tonumber(string.sub(record, 1, 16)) or 0
end

local function opened(record)
  return tonumber(string.sub(record, 17, 32)) or 0
end

local function print_of(record)
  return string.sub(record, 33, 48)
end

-- The times and the print, which tell a record from all others.
local function head_of(record)
  return string.sub(record, 1, 48)
end

-- The latest sign-out at the keys from this one on; 0 if there is none.
local function signed_out(first)
  local latest = 0
  for index = first, #KEYS do
    latest = math.max(latest, tonumber(redis.call('GET', KEYS[index]) or 0))
  end
  return latest
end

-- How much longer a record lasts; 0 or less if it must not be served.
local function remaining(record, not_before, now)
  if #record <= 48 or opened(record) <= not_before or opened(record) > now then
    return 0
  end
  return ends(record) - now
end
