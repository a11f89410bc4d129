-- Turn a queued run into a running attempt of one worker, under a lease.
--
-- KEYS[2]  the key of the result in Celery's format, where records are not to be believed: a run
--          that has one is over; absent otherwise
-- ARGV[1]  run id
-- ARGV[2]  worker (the name of the process's channel)
-- ARGV[3]  claim: unique to this delivery, so that a repeated call gets the same answer
-- ARGV[4]  lease, milliseconds
-- ARGV[5]  payload of the event that announces the attempt, as the record keeps it
-- ARGV[6]  the executing time that all attempts of the run have together, milliseconds (0: any)
-- ARGV[7]  the skill's own max_deliveries (0: the record's)
-- ARGV[8]  the tenant of the caller: `=TENANT`, or `=` for a caller without one; '' for any
-- ARGV[9]  versions of the agent whose journals the worker can continue, each between two newlines; ''
--          for any
-- ARGV[10..] field, value pairs of the record, for a message of a plain Celery client
--          that was not submitted; nothing when such a message is to be refused
--
-- Returns {status, token, attempt, seq, now, deadline or '', extra, retries, '1' with a journal or '', rest
-- of the executing time or '', version of the agent that recorded last or '', tags}: status is
-- 'claimed' (extra: milliseconds it waited since it was published), 'duplicate' (another
-- attempt holds the run), 'ended' (extra: its state), 'early' (its delay is not over), 'held' (extra:
-- the reason that holds it back; one that was not served is claimed, as this worker serves it),
-- 'other_version' (extra: the version that recorded last; still queued), 'cancelled' (extra: the
-- reason; its code in place of retries) and 'overdue' (both still queued:
-- end it), 'other_tenant' (the run is not the caller's tenant's), 'exhausted' (lost and released too often: the reaper ends it), 'unknown'.
local id, worker, claim = ARGV[1], ARGV[2], ARGV[3]
local run = run_key(id)
local now = now_ms()

local function read()
  return redis.call('HMGET', run, 'state', 'token', 'attempt', 'seq', 'claim', 'cancel', 'deadline', 'due', 'queue',
    'priority', 'published', 'stream', 'retries', 'cancel_code', 'parent', 'lost', 'max_deliveries', 'kept',
    'journal', 'waiting', 'stranded', 'spent', 'held', 'version', 'tags',
    'created')
end

-- Whether the run belongs to the caller's tenant; one that names no tenant gets this one.
local function is_tenants(r)
  local expected, tags = ARGV[8], r[25] or ''
  local tenant = string.match('\n' .. tags, '\ntenant(=[^\n]+)') or '='
  if expected == '' or tenant == expected then return true end
  if tenant ~= '=' then return false end
  r[25] = tags .. '\ntenant' .. expected
  redis.call('HSET', run, 'tags', r[25])
  write_shared('ZADD', P .. 'index:tag:tenant' .. expected, r[26], id)
  return true
end

-- Why a called run must not start: its calling run needs it no more.
local function why_abandoned(parent)
  local p = redis.call('HMGET', run_key(parent), 'state', 'cancel')
  if not is_live(p[1]) then return 'its calling run has ended' end
  return p[2] and 'its parent was cancelled: ' .. p[2]
end

-- The events of steps that an earlier attempt has not recorded are void. A failed step is recorded,
-- and its events stay valid, unless a retry has dropped it.
local function void_unfinished(attempt, seq)
  local unfinished, last = redis.call('HGETALL', P .. 'unfinished:' .. id), seq
  for i = 1, #unfinished, 2 do
    local step = unfinished[i]
    if redis.call('HEXISTS', P .. 'journal:' .. id, step) == 0 then
      seq = seq + 1
      local payload = '{"from":"' .. unfinished[i + 1] .. '-0","to":"' .. last .. '-0","step":' .. cjson.encode(step) .. '}'
      write_event(id, seq, 'superseded', payload, attempt, now)
      redis.call('HDEL', P .. 'unfinished:' .. id, step)
    end
  end
  return seq
end

local r = read()
if not r[1] then
  if #ARGV < 10 then return { 'unknown', 0, 0, 0, now, '', '' } end
  local fields = {}
  for i = 10, #ARGV, 2 do fields[ARGV[i]] = ARGV[i + 1] end
  add_record(id, fields, now, now, ARGV, 10)
  enter_ready(id, fields.queue, fields.priority, now)
  r = read()
end
local state, token, attempt, seq = r[1], tonumber(r[2]), tonumber(r[3]), tonumber(r[4])
local deadline = r[7] or ''
local retries = tonumber(r[13] or 0)
local timeout, rest = tonumber(ARGV[6]), ''
if timeout > 0 then rest = timeout - tonumber(r[22] or 0) end

if state == 'running' then
  if r[5] == claim then
    return { 'claimed', token, attempt, seq, now, deadline, 0, retries, r[19] or '', rest, r[24] or '', r[25] or '' }
  end
  return { 'duplicate', token, attempt, seq, now, deadline, '' }
end
-- It is parked: its message is published again once it can continue.
if state == 'waiting' then return { 'duplicate', token, attempt, seq, now, deadline, '' } end
if state ~= 'queued' then return { 'ended', token, attempt, seq, now, deadline, state } end
if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 1 then
  return { 'ended', token, attempt, seq, now, deadline, 'over' }
end
local abandoned = r[15] and not r[6] and why_abandoned(r[15])
if abandoned then
  r[6], r[14] = abandoned, 'parent_ended'
  mark_cancelled(id, r[15], r[6], r[14])
  add_cleanup(id, now + CLEANUP_MS)
end
if r[6] then return { 'cancelled', token, attempt, seq, now, deadline, r[6], r[14] or '' } end
if not is_tenants(r) then return { 'other_tenant', token, attempt, seq, now, deadline, '' } end
if tonumber(r[16] or 0) >= tonumber(r[17] or math.huge) then
  return { 'exhausted', token, attempt, seq, now, deadline, '' }
end
if r[7] and tonumber(r[7]) <= now or (tonumber(rest) or 1) <= 0 then
  return { 'overdue', token, attempt, seq, now, deadline, '' }
end
if r[8] and tonumber(r[8]) > now then return { 'early', token, attempt, seq, now, deadline, '' } end
if r[23] and not is_unserved(r[23]) then return { 'held', token, attempt, seq, now, deadline, r[23] } end

if r[24] and ARGV[9] ~= '' and not string.find(ARGV[9], '\n' .. r[24] .. '\n', 1, true) then
  return { 'other_version', token, attempt, seq, now, deadline, r[24] }
end

if ARGV[7] ~= '0' then redis.call('HSET', run, 'max_deliveries', ARGV[7], 'strict', '1') end

token, attempt = token + 1, attempt + 1
if r[19] then seq = void_unfinished(attempt, seq) end
seq = seq + 1
leave_queued(id, r[9], r[10], r[8])
if r[23] then leave_held(id, r[23], r[9]) end
local published = tonumber(r[11]) or now
write_shared('HSET', P .. 'watermark', r[9] .. ':' .. r[10], published)
write_shared('SADD', P .. 'running:' .. r[9], id)
write_shared('ZADD', P .. 'leases', now + tonumber(ARGV[4]), id)
local kept = add_state(id, r[12], r[18], attempt, seq, ARGV[5], now)
redis.call('HSET', run, 'state', 'running', 'token', token, 'attempt', attempt, 'seq', seq, 'worker', worker,
  'claim', claim, 'started', now, 'kept', kept)
if r[8] or r[21] then redis.call('HDEL', run, 'due', 'stranded') end
if (r[20] or '') ~= '' then
  -- It waits from the start.
  seq = seq + 1
  kept = add_state(id, r[12], kept, attempt, seq, waiting_payload(r[20]), now)
  redis.call('HSET', run, 'seq', seq, 'kept', kept)
end
if r[19] then redis.call('HSET', run, 'announced', (r[20] or '') ~= '' and '1' or '') end
return {
  'claimed', token, attempt, seq, now, deadline, now - published, retries, r[19] or '', rest, r[24] or '', r[25] or '',
}
