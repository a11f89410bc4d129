-- Hold back a queued run, whose message the caller drops, until it is freed (release.lua).
--
-- ARGV[1]  run id
-- ARGV[2]  reason
-- ARGV[3]  after how many milliseconds the reaper looks at it (reap_held.lua)
--
-- Returns 'held' (also when it was held before), or why nothing had to be done: 'unknown', 'early' (its
-- delay is not over: its message comes again), or the state of a run that is not queued.
local id = ARGV[1]
local r = redis.call('HMGET', run_key(id), 'state', 'queue', 'priority', 'created', 'held')
if not r[1] then return 'unknown' end
if r[1] ~= 'queued' then return r[1] end
if r[5] then return 'held' end
if redis.call('ZSCORE', P .. 'delayed', id) then return 'early' end
leave_queued(id, r[2], r[3])
redis.call('ZREM', P .. 'unpublished', id)
hold(id, ARGV[2], r[2], r[4], now_ms() + tonumber(ARGV[3]))
return 'held'
