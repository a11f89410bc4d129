-- Record an entry of a run's journal, once, only under the lease, and close its wait.
--
-- ARGV[1]  run id
-- ARGV[2]  token of the lease
-- ARGV[3]  identity of the entry
-- ARGV[4]  the entry
-- ARGV[5]  version of the agent, for what may be the first entry of the attempt; '' for further ones
-- ARGV[6]  '1' when the entry is a step that has emitted events: they are valid now
-- ARGV[7]  digest of a value that is kept apart; '' for one inside the entry
-- ARGV[8]  id of the wait that the entry ends; '' for none
-- ARGV[9]  number of the last event the attempt wrote; looked at for a wait only
-- ARGV[10..] address, number pairs: how many events with that address are in the stream
--
-- Returns {1, number of the last event}, {0} when the lease is gone, {-1, number} when an event is missing.
local id, identity, wait = ARGV[1], ARGV[3], ARGV[8]
local run, journal = run_key(id), P .. 'journal:' .. id
local r
if wait == '' then
  r = redis.call('HMGET', run, 'token', 'state', 'seq')
else
  r = read_for_waits(id)
end
if not holds_lease(r[2], r[1], ARGV[2]) then return { 0 } end
local seq = tonumber(r[3])
if wait ~= '' and seq ~= tonumber(ARGV[9]) then
  if redis.call('HEXISTS', journal, identity) == 0 then return { -1, seq } end
  return { 1, seq }
end
if redis.call('HSETNX', journal, identity, ARGV[4]) == 0 then return { 1, seq } end
if ARGV[5] ~= '' then redis.call('HSET', run, 'journal', '1', 'version', ARGV[5]) end
if ARGV[6] == '1' then redis.call('HDEL', P .. 'unfinished:' .. id, identity) end
if ARGV[7] ~= '' then
  redis.call('PERSIST', P .. 'blob:' .. id .. ':' .. ARGV[7])
  redis.call('SADD', P .. 'values:' .. id, ARGV[7])
end
note_emitted(id, 10)
if wait ~= '' then seq = close_wait(id, r, wait, '') end
return { 1, seq }
