-- Returns how long ago (us) a sign-out was, by the clock of the server that has it; nothing if there is none.
-- KEYS: sign-out.
local signed_out = redis.call('GET', KEYS[1])
return signed_out and math.max(time() - tonumber(signed_out), 0)
