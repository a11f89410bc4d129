-- Give a running run back to the queue, only under the lease: for a retry or at a drain.
--
-- KEYS[2]  the broker's list to push the message onto; absent when the caller publishes
-- ARGV[1]  run id
-- ARGV[2]  token of the lease
-- ARGV[3]  number of the last event the attempt wrote
-- ARGV[4]  delay before the next attempt, milliseconds (0: now)
-- ARGV[5]  outcome for the attempts list: 'retry' (counted) or 'released' (not counted, up to a bound)
-- ARGV[6]  payload of the event that announces it
-- ARGV[7]  the message, ready for the broker's list; '' when the caller publishes
-- ARGV[8]  executing time of the attempt, milliseconds
-- ARGV[9..] identities of failed steps, which the next attempt executes again
--
-- Returns 'requeued', 'lost' or 'gap'.

-- Releases are not counted, but for those beyond so many: each is a lost attempt then. A fleet that
-- drains its workers ten times a day gets there after ten days, with a run that never came through
-- between two drains; a run that is released over and over without a reason does in minutes.
local MOST_RELEASES = 100

local id, delay = ARGV[1], tonumber(ARGV[4])
local run = run_key(id)
local r = redis.call('HMGET', run, 'token', 'state', 'seq', 'queue', 'priority', 'attempt', 'stream', 'requeued',
  'cancel', 'worker', 'started', 'deadline', 'max_deliveries', 'kept', 'journal')
if r[8] == ARGV[2] then return 'requeued' end
if not holds_lease(r[2], r[1], ARGV[2]) then return 'lost' end
if tonumber(r[3]) ~= tonumber(ARGV[3]) then return 'gap' end

local now, seq = now_ms(), tonumber(r[3]) + 1
leave_running(id, r[4])
local kept = add_state(id, r[7], r[14], r[6], seq, ARGV[6], now)
redis.call('HSET', run, 'state', 'queued', 'seq', seq, 'token', tonumber(r[1]) + 1, 'requeued', ARGV[2],
  'kept', kept)
local is_over = r[9]
for i = 9, #ARGV do
  redis.call('HDEL', P .. 'journal:' .. id, ARGV[i])
  redis.call('HDEL', P .. 'emitted:' .. id, ARGV[i])
end
if ARGV[5] == 'retry' then
  redis.call('HINCRBY', run, 'retries', 1)
elseif redis.call('HINCRBY', run, 'released', 1) > MOST_RELEASES then
  is_over = is_over or redis.call('HINCRBY', run, 'lost', 1) >= tonumber(r[13])
end
redis.call('HINCRBY', run, 'spent', ARGV[8])
list_attempt(id, r[6], r[10], r[11], ARGV[5], now)
-- It waits neither for its delay nor for a worker: the reaper closes it in its next round.
if is_over then add_cleanup(id, now) end
-- While it ran, its deadline was looked at now and then only.
if r[12] then redis.call('ZADD', P .. 'deadlines', r[12], id) end
if delay > 0 then
  redis.call('HSET', run, 'due', now + delay, 'published', now + delay)
  start_delay(id, r[4], now + delay)
else
  mark_ready(id, r[4], r[5], now)
  -- The list is read from the right: a run that resumes goes ahead of new ones.
  if ARGV[7] ~= '' then redis.call(r[15] and 'RPUSH' or 'LPUSH', KEYS[2], ARGV[7]) end
end
return 'requeued'
