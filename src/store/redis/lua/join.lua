-- Makes a broker a missing member with the share that it holds. Returns the time.
-- KEYS: members. ARGV: id, share, members that it remembers, the largest share of one, for how long a member counts as
-- missing (us), life of an idle list (ms).
local now = time()
local id, share, remembered = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local largest, missing = tonumber(ARGV[4]), tonumber(ARGV[5])
-- A list without members has these three fields, or nothing.
if redis.call('HLEN', KEYS[1]) == 3 * redis.call('HEXISTS', KEYS[1], 'founded') then
  write('founded', now)
  write('remembered', 0)
  write('largest', 0)
end
if math.abs(now - number('founded')) < missing then
  write('remembered', math.max(number('remembered'), remembered))
  write('largest', math.max(number('largest'), largest))
end
local own = parse(redis.call('HGET', KEYS[1], id))
local is_remembered = remembered > 0 or (own and own.is_remembered)
put(id, {seen = now, has_beaten = false, is_remembered = is_remembered, last = share, before = share})
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return now
