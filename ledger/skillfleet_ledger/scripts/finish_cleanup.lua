-- Remove the note of an ended or cancelled run's cleanup, once all its children have been cancelled.
--
-- ARGV[1]  run id
--
-- Returns 1, or 0 when no cleanup was noted, or when the run is live and may call others.
local r = redis.call('HMGET', run_key(ARGV[1]), 'state', 'cancel')
if is_live(r[1]) and not r[2] then return 0 end
return remove_cleanup(ARGV[1])
