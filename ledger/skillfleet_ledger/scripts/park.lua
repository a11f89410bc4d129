-- Park a run that only waits, only under the lease: no worker has it then. It continues when its worker
-- reports that the handler has ended (end_parking.lua), at the latest when the lease would have ended.
--
-- ARGV[1]  run id
-- ARGV[2]  token of the lease
-- ARGV[3]  number of the last event the attempt wrote
-- ARGV[4]  executing time of the attempt, milliseconds
-- ARGV[5..] ids of the waits that the handler waits for
--
-- Returns 'parked', 'lost', 'gap', or 'refused' when there is something to continue with.
local id = ARGV[1]
local run = run_key(id)
local r = redis.call('HMGET', run, 'token', 'state', 'seq', 'queue', 'attempt', 'worker', 'started', 'requeued',
  'cancel', 'deadline')
if r[8] == ARGV[2] then return 'parked' end
if not holds_lease(r[2], r[1], ARGV[2]) then return 'lost' end
if r[3] ~= ARGV[3] then return 'gap' end
-- Its worker ends it.
if r[9] or not ARGV[5] then return 'refused' end

local first
for i = 5, #ARGV do
  local stored = redis.call('HGET', P .. 'waits:' .. id, ARGV[i])
  if not stored or redis.call('HEXISTS', P .. 'decisions:' .. id, ARGV[i]) == 1 then return 'refused' end
  local kind, expires, called = string.match(stored, '^(%l+) (%S+) %S+ (%S+)')
  if kind == 'message' and redis.call('LLEN', P .. 'inbox:' .. id) > 0 then return 'refused' end
  if kind == 'call' and not is_live(redis.call('HGET', run_key(called), 'state')) then return 'refused' end
  expires = tonumber(expires)
  if expires and not (first and first < expires) then first = expires end
end

local now = now_ms()
local lease_end = redis.call('ZSCORE', P .. 'leases', id) or now
leave_running(id, r[4])
redis.call('HINCRBY', run, 'spent', ARGV[4])
list_attempt(id, r[5], r[6], r[7], 'parked', now)
redis.call('HSET', run, 'state', 'waiting', 'token', tonumber(r[1]) + 1, 'requeued', ARGV[2],
  'parking', ARGV[2])
enter_parked(id, r[4], now, first)
redis.call('ZADD', P .. 'parking', lease_end, id)
-- While it ran, its deadline was looked at now and then only.
if r[10] then redis.call('ZADD', P .. 'deadlines', r[10], id) end
return 'parked'
