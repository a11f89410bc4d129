-- Strike what an ended or cancelled run cleanups, once all that it called has been cancelled.
--
-- ARGV[1]  run id
--
-- Returns 1, or 0 when it cleanups nothing, or goes on and may call others.
local r = redis.call('HMGET', run_key(ARGV[1]), 'state', 'cancel')
if is_live(r[1]) and not r[2] then return 0 end
return remove_cleanup(ARGV[1])
