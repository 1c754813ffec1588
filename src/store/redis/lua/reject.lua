-- Removes a token that Courier rejected, and refuses it for a while: a write that is under way could bring it back.
-- KEYS: token, rejected prints. ARGV: print, for how long (ms).
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
local record = redis.call('GET', KEYS[1])
if record and print_of(record) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 1
