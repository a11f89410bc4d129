-- Take the next message out of a run's inbox and record it, once, only under the lease.
--
-- ARGV[1]  run id
-- ARGV[2]  token of the lease
-- ARGV[3]  number of the last event the attempt wrote
-- ARGV[4]  identity of the entry
-- ARGV[5]  the entry without its value
-- ARGV[6]  id of the wait that the message ends; '' for none
-- ARGV[7..] address, number pairs: how many events with that address are in the stream
--
-- Returns {1, number of the last event, value of the message}, {0} when the lease is gone, {-1, number} when an event is
-- missing, {2, number} when there is no message.
local id, identity, wait = ARGV[1], ARGV[4], ARGV[6]
local journal, inbox = P .. 'journal:' .. id, P .. 'inbox:' .. id
local r = read_for_waits(id)
if not holds_lease(r[2], r[1], ARGV[2]) then return { 0 } end
local before, seq = redis.call('HGET', journal, identity), tonumber(r[3])
if before then return { 1, seq, string.match(before, '\n(.*)$') or '' } end
if r[3] ~= ARGV[3] then return { -1, seq } end
local message = redis.call('LPOP', inbox)
if not message then return { 2, seq } end

-- Its first line is about the sender. What was enqueued into the session as a run is that run no more.
local twin = string.match(message, '^[^\n]*"run":"([^"\\\n]+)"')
if twin then
  local t = redis.call('HMGET', run_key(twin), 'state', 'cancel', 'session')
  if t[1] == 'queued' and not t[2] and t[3] and t[3] == redis.call('HGET', run_key(id), 'session') then
    mark_cancelled(twin, nil, 'run ' .. id .. ' has received it as a message', 'delivered')
    add_cleanup(twin, now_ms())
  end
end
local value = string.match(message, '\n(.*)$') or 'null'
redis.call('HSET', journal, identity, ARGV[5] .. '\n' .. value)
redis.call('HINCRBY', run_key(id), 'inbox_bytes', -#message)
note_emitted(id, 7)
if wait ~= '' then seq = close_wait(id, r, wait, '') end
return { 1, seq, value }
