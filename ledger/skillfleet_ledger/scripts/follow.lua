-- Read what a reader of a run's events starts from, and note that the events of a live run go into a
-- stream from now on, on which readers can wait.
--
-- ARGV[1]  run id
--
-- Returns {state, number of the last event, changes of state that the record keeps}, or nil when
-- there is no such run. All events that are not kept in the record are in the stream.
local r = redis.call('HMGET', run_key(ARGV[1]), 'state', 'seq', 'stream', 'kept')
if not r[1] then return nil end
if is_live(r[1]) and r[3] ~= '1' then redis.call('HSET', run_key(ARGV[1]), 'stream', '1') end
return { r[1], r[2], r[4] or '' }
