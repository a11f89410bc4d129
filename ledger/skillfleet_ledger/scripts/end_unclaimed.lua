-- End a run that no attempt holds: cancelled or overdue in the queue, refused before its
-- first attempt, or given up by the reaper.
--
-- KEYS[2]  the key of the result in Celery's format
-- ARGV[1]  run id
-- ARGV[2]  the token it must still have; '' for any
-- ARGV[3]  terminal state      ARGV[4] reason code      ARGV[5] message for the caller
-- ARGV[6]  payload of the final event
-- ARGV[7]  the result in Celery's format
--
-- Returns a list: 'ended_now', 'ended_before', 'changed' (an attempt holds it now) or 'unknown'; then
-- the ids of the runs that the end has made ready, which the caller publishes.
local id = ARGV[1]
local r = read_for_finish(id)
if not r[1] then return { 'unknown' } end
if not is_live(r[1]) then return { 'ended_before' } end
if ARGV[2] ~= '' and r[2] ~= ARGV[2] then return { 'changed' } end
if ARGV[2] == '' and r[1] == 'running' then return { 'changed' } end
finish(id, r, ARGV[3], ARGV[4], ARGV[5], ARGV[6], KEYS[2], ARGV[7])
return { 'ended_now', unpack(take_woken()) }
