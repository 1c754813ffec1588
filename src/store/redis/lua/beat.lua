-- Makes a broker a live member. Void if it was last seen at another time or too long ago, or if the fleet has other names.
-- KEYS: members, names. ARGV: id, when it was seen, names; for how long (us) a beat is in time, a member is live, and a
-- member is missing; life of an idle list (ms).
-- Returns: the time, the number of members, this one's share, and what the live ones may use; nothing if it is void.
local now = time()
local id, seen = ARGV[1], tonumber(ARGV[2])
local in_time, live, missing = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local own = parse(redis.call('HGET', KEYS[1], id))
if not own or own.seen ~= seen or now < seen or now - seen > in_time or redis.call('GET', KEYS[2]) ~= ARGV[3] then
  return false
end
own = {seen = now, has_beaten = true, last = own.last, before = own.last}

-- What the others hold, and what the missing ones of them hold.
local known, others, absent = 1, 0, 0
local list = redis.call('HGETALL', KEYS[1])
for index = 1, #list, 2 do
  local member = parse(list[index + 1])
  if member and list[index] ~= id then
    if is_near(member.seen, now, missing) then
      local share = math.max(member.last, member.before)
      known = known + 1
      others = others + share
      if not (member.has_beaten and member.seen <= now and now - member.seen <= live) then
        absent = absent + share
      end
    else
      redis.call('HDEL', KEYS[1], list[index])
    end
  end
end

local remembered, forgotten = number('remembered'), 0
if math.abs(now - number('founded')) < missing then
  forgotten = math.max(remembered - known, 0)
end
if forgotten > 0 then
  local theirs = forgotten * math.floor(WHOLE / remembered)
  others = others + theirs
  absent = absent + theirs
end
local members = known + forgotten
local share = math.min(math.floor(WHOLE / members), math.max(WHOLE - others, 0))
-- A member that the others have not left a share yet keeps the one that it joined with.
if share > 0 then
  own.last = share
end
put(id, own)
redis.call('PEXPIRE', KEYS[1], ARGV[7])
return {now, members, own.last, math.max(WHOLE - absent, 0)}
