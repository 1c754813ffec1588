-- Returns the time of the server that has a token.
-- KEYS: token.
return time()
