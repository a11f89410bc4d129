-- Note that the handler of a parked run has ended: from now on it may continue.
--
-- ARGV[1]  run id
-- ARGV[2]  token of the lease under which it was parked
--
-- Returns ids of runs that continue now.
local id = ARGV[1]
if redis.call('HGET', run_key(id), 'parking') == ARGV[2] then end_parking(id) end
return take_woken()
