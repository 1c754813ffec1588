-- For tests: a clock that is a key, and keys that expire by it.
local server = redis

local function time()
  return tonumber(server.call('GET', 'time'))
end

local function expire(key, millis)
  server.call('HSET', 'ends', key, string.format('%.0f', time() + millis * 1000))
  return 1
end

local redis = {}

function redis.call(name, key, ...)
  local ends = tonumber(server.call('HGET', 'ends', key) or nil)
  if ends and ends <= time() then
    server.call('DEL', key)
    server.call('HDEL', 'ends', key)
    ends = nil
  end
  local value, _, millis = ...
  if name == 'SET' then
    server.call('SET', key, value)
    return expire(key, millis)
  elseif name == 'PEXPIRE' then
    return server.call('EXISTS', key) == 1 and expire(key, value) or 0
  elseif name == 'PTTL' then
    return ends and math.ceil((ends - time()) / 1000) or -1
  elseif name == 'DEL' then
    server.call('HDEL', 'ends', key)
  end
  return server.call(name, key, ...)
end
