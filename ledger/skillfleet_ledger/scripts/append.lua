-- Append a batch of events to a run's stream, only under the lease, each once.
--
-- ARGV[1]  run id
-- ARGV[2]  token of the lease
-- ARGV[3]  attempt
-- ARGV[4]  number of the batch's first event; events the stream already has are skipped. Without
--          events, only what ARGV[6] says is noted
-- ARGV[5]  most events the stream keeps (approximate)
-- ARGV[6]  '' for a run without steps. Else how many address, number pairs follow: so many events with
--          that address are in the stream then
-- ARGV[..] kind, payload, time of emission (ms) of each event; in a run with steps, the identity of
--          the step that emitted it, or '', as well
--
-- Returns {1, number of the stream's last event, reason of a cancellation or ''}, or {0} when
-- the lease is gone, or {-1, number} when the batch would leave a gap.
local id = ARGV[1]
local run = run_key(id)
local r = redis.call('HMGET', run, 'token', 'state', 'seq', 'cancel', 'kept')
if not holds_lease(r[2], r[1], ARGV[2]) then return { 0 } end
local seq, first = tonumber(r[3]), tonumber(ARGV[4])
if first > seq + 1 then return { -1, seq } end

local events, attempt, cap = P .. 'events:' .. id, ARGV[3], ARGV[5]
local number, last = first, seq
local pairs_given = tonumber(ARGV[6])
local start, parts = 7 + 2 * (pairs_given or 0), pairs_given and 4 or 3
for i = start, #ARGV, parts do
  if number > last then
    if last == seq then write_kept(id, r[5], seq) end
    local step = pairs_given and ARGV[i + 3] or ''
    if step == '' then
      redis.call('XADD', events, 'MAXLEN', '~', cap, number .. '-0',
        'k', ARGV[i], 'p', ARGV[i + 1], 'a', attempt, 't', ARGV[i + 2])
    else
      redis.call('XADD', events, 'MAXLEN', '~', cap, number .. '-0',
        'k', ARGV[i], 'p', ARGV[i + 1], 'a', attempt, 't', ARGV[i + 2], 's', step)
      redis.call('HSETNX', P .. 'unfinished:' .. id, step, number)
    end
    last = number
  end
  number = number + 1
end
if last > seq then redis.call('HSET', run, 'seq', last, 'stream', '1', 'kept', '') end
-- A batch that comes again was counted before.
if pairs_given and (last > seq or start > #ARGV) then
  redis.call('HSET', run, 'journal', '1')
  note_emitted(id, 7, start - 1)
end
return { 1, last, r[4] or '' }
