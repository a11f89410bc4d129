-- Write a schedule: change it, or put it under its name.
--
-- One that is put while its times stay the same keeps what only the ledger has of it: when it is due
-- next, whether it is paused, its last run.
--
-- ARGV[1]  name
-- ARGV[2]  'put'; or when it is due next (ms), as the caller has read it: the script does nothing when
--          that is another time by now; '*' where that does not matter
-- ARGV[3]  when it is due next from now on (ms), '' for never, '=' for no change
-- ARGV[4]  queue of its runs, '' for no change
-- ARGV[5]  '', or for 'put': most schedules on this shard
-- ARGV[6]  its times (JSON)
-- ARGV[7]  from when intervals count (ms)
-- ARGV[8]  generation: distinguishes schedules that have had the name
-- ARGV[9..] field, value pairs
--
-- Returns 1, or 2 for a new one, 0 when another process was faster, -1 when there is no such schedule,
-- -2 when there are too many.
local name, expected, following = ARGV[1], ARGV[2], ARGV[3]
local key, all = P .. 'schedule:' .. name, P .. 'schedules'
local r = redis.call('HMGET', key, 'times', 'next', 'queue', 'paused')
local result = 1
if expected == 'put' then
  if not r[1] and redis.call('ZCARD', all) >= tonumber(ARGV[5]) then return -2 end
  if r[1] == ARGV[6] then
    following = r[2]
  else
    redis.call('HSET', key, 'times', ARGV[6], 'anchor', ARGV[7], 'waiting', '')
  end
  if r[4] == '1' then following = '' end
  if not r[1] then
    redis.call('HSET', key, 'created', now_ms(), 'generation', ARGV[8])
    result = 2
  end
elseif not r[1] then
  return -1
elseif expected ~= '*' and r[2] ~= expected then
  return 0
elseif following == '=' then
  following = r[2]
end
local queue = ARGV[4] == '' and r[3] or ARGV[4]
redis.call('HSET', key, 'next', following, 'queue', queue, unpack(ARGV, 9))

-- One that is paused, or never due again, stays listed; one with occurrences that wait for the end of
-- its last run is looked at in each round.
local what = 'schedule:' .. name
local state = redis.call('HMGET', key, 'paused', 'waiting')
if r[3] and r[3] ~= queue then forget_due(r[3], what) end
local at = following == '' and '+inf' or following
if state[1] ~= '1' and state[2] ~= '' then at = 0 end
redis.call('ZADD', all, at, name)
if following == '' then
  forget_due(queue, what)
else
  note_due(queue, what, following)
end
return result
