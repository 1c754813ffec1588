-- Renews a lease, if it is still this flight's.
-- KEYS: lease. ARGV: flight, life of the lease (ms).
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
