-- End the lease of a run whose process is known to be gone; the reaper's next round restarts it.
--
-- ARGV[1]  run id
-- ARGV[2]  beginning of the name of the worker that must hold it
--
-- Returns 1, or 0 when the run is not held by such a worker (any more).
local id, holder = ARGV[1], ARGV[2]
local r = redis.call('HMGET', run_key(id), 'state', 'worker')
if r[1] ~= 'running' or string.sub(r[2], 1, #holder) ~= holder then return 0 end
redis.call('ZADD', P .. 'leases', 'LT', now_ms(), id)
return 1
