-- Makes a broker a live member. Void if it was last seen at another time or too long ago, or if the fleet has other names.
-- KEYS: members, names. ARGV: id, when it was seen, names; for how long (us) a beat is in time, a member is live, and a
-- member is missing; life of an idle list (ms).
-- Returns: the time, the number of members, their largest share, this one's, what the live ones may use, and their
-- number; nothing if it is void.
local now = time()
local id, seen = ARGV[1], tonumber(ARGV[2])
local in_time, live, missing = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local own = parse(redis.call('HGET', KEYS[1], id))
if not own or own.seen ~= seen or now < seen or now - seen > in_time or redis.call('GET', KEYS[2]) ~= ARGV[3] then
  return false
end
own.seen, own.has_beaten, own.before = now, true, own.last

-- The members, the live ones, those of before the list was made, what the missing ones and all others hold, and the
-- largest share of another one.
local known, alive, back, absent, others, largest = 1, 1, own.is_remembered and 1 or 0, 0, 0, 0
local list = redis.call('HGETALL', KEYS[1])
for index = 1, #list, 2 do
  local member = parse(list[index + 1])
  if member and list[index] ~= id then
    if is_near(member.seen, now, missing) then
      known = known + 1
      back = back + (member.is_remembered and 1 or 0)
      -- It may not have had the last answer.
      local share = math.max(member.last, member.before)
      others, largest = others + share, math.max(largest, share)
      if member.has_beaten and member.seen <= now and now - member.seen <= live then
        alive = alive + 1
      else
        absent = absent + share
      end
    else
      redis.call('HDEL', KEYS[1], list[index])
    end
  end
end

local forgotten = 0
if math.abs(now - number('founded')) < missing then
  forgotten = math.max(number('remembered') - back, 0)
end
if forgotten > 0 then
  local theirs = forgotten * number('largest')
  absent, others = absent + theirs, others + theirs
  largest = math.max(largest, number('largest'))
end
local members = known + forgotten
own.last = math.min(math.floor(WHOLE / members), math.max(WHOLE - others, 0))
largest = math.max(largest, own.last, own.before)
put(id, own)
redis.call('PEXPIRE', KEYS[1], ARGV[7])
return {now, members, largest, own.last, math.max(WHOLE - absent, 0), alive}
