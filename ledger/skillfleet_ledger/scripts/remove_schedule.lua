-- Remove a schedule. Runs that it has enqueued continue.
--
-- ARGV[1]  name
--
-- Returns 1, or 0 when there is none.
local name = ARGV[1]
local key = P .. 'schedule:' .. name
local queue = redis.call('HGET', key, 'queue')
if queue then forget_due(queue, 'schedule:' .. name) end
redis.call('ZREM', P .. 'schedules', name)
return redis.call('DEL', key)
