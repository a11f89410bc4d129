-- Append a batch of events to a run's stream, only under the lease, each once.
--
-- ARGV[1]  run id
-- ARGV[2]  token of the lease
-- ARGV[3]  attempt
-- ARGV[4]  number of the batch's first event; events the stream already has are skipped
-- ARGV[5]  most events the stream keeps (approximate)
-- ARGV[6..] kind, payload, time of emission (ms) of each event
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
for i = 6, #ARGV, 3 do
  if number > last then
    if last == seq then write_kept(id, r[5], seq) end
    redis.call('XADD', events, 'MAXLEN', '~', cap, number .. '-0',
      'k', ARGV[i], 'p', ARGV[i + 1], 'a', attempt, 't', ARGV[i + 2])
    last = number
  end
  number = number + 1
end
if last > seq then redis.call('HSET', run, 'seq', last, 'stream', '1', 'kept', '') end
return { 1, last, r[4] or '' }
