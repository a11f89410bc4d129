-- Remove a message from a run's inbox if it is the next one, only under the lease.
--
-- ARGV[1]  run id
-- ARGV[2]  token of the lease
-- ARGV[3]  the message
--
-- Returns 1, or 0 when the lease is gone.
local id, inbox = ARGV[1], P .. 'inbox:' .. ARGV[1]
local r = redis.call('HMGET', run_key(id), 'token', 'state')
if not holds_lease(r[2], r[1], ARGV[2]) then return 0 end
if redis.call('LINDEX', inbox, 0) == ARGV[3] then
  redis.call('LPOP', inbox)
  redis.call('HINCRBY', run_key(id), 'inbox_bytes', -#ARGV[3])
end
return 1
