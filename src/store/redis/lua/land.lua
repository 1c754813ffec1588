-- Stores a token unless the stored one lasts at least as long, and gives the lease back.
-- KEYS: token, lease, rejected prints, sign-outs...
-- ARGV: flight, record, head of the record that is of no use.
local now = time()
local record = ARGV[2]
local not_before = signed_out(4)
local left = remaining(record, not_before, now)
local landing = 'stored'
if left <= 0 or redis.call('SISMEMBER', KEYS[3], print_of(record)) == 1 then
  landing = 'refused'
else
  local stored = redis.call('GET', KEYS[1])
  if stored and head_of(stored) ~= ARGV[3] and remaining(stored, not_before, now) >= left then
    landing = 'kept'
  else
    redis.call('SET', KEYS[1], record, 'PX', string.format('%.0f', math.ceil(left / 1000)))
  end
end
if redis.call('GET', KEYS[2]) == ARGV[1] then
  redis.call('DEL', KEYS[2])
end
return landing
