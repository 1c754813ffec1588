-- Removes a member, unless another process with its id has joined since.
-- KEYS: members. ARGV: id, when it was seen.
local own = parse(redis.call('HGET', KEYS[1], ARGV[1]))
if own and own.seen == tonumber(ARGV[2]) then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return 1
