-- Looks for a token; takes the lease if there is none that lasts long enough.
-- KEYS: token, lease, sign-outs...
-- ARGV: flight, life of the lease (ms), least remaining life (us), head of the record that is of no use.
-- Returns: what was found, the time, and the record or for how long (ms) the lease is held.
local now = time()
local record = redis.call('GET', KEYS[1])
if record and head_of(record) ~= ARGV[4] then
  local left = remaining(record, signed_out(3), now)
  if left > 0 and left >= tonumber(ARGV[3]) then
    return {'found', now, record}
  end
end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then
  return {'held', now, redis.call('PTTL', KEYS[2])}
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {'leased', now}
