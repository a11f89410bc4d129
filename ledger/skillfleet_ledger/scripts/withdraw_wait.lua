-- Remove a wait that the run does not need any more, decided or not, only under the lease.
--
-- ARGV[1]  run id
-- ARGV[2]  token of the lease
-- ARGV[3]  number of the last event the attempt wrote
-- ARGV[4]  id of the wait
-- ARGV[5]  why, for people
--
-- Returns {1, number of the last event}, {0} when the lease is gone, {-1, number} when an event is missing.
local id, wait = ARGV[1], ARGV[4]
local r = read_for_waits(id)
if not holds_lease(r[2], r[1], ARGV[2]) then return { 0 } end
if redis.call('HEXISTS', P .. 'waits:' .. id, wait) == 0 then return { 1, tonumber(r[3]) } end
if r[3] ~= ARGV[3] then return { -1, tonumber(r[3]) } end
return { 1, close_wait(id, r, wait, ARGV[5]) }
