-- Shared by every script: this text is put in front of each of them when it is loaded.
--
-- KEYS[1] is always the shard's prefix, "{<namespace>:<shard>}:"; every other key of the
-- shard is built from it and so lies in the same slot. keys.py documents all of them.

local P = KEYS[1]

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function run_key(id)
  return P .. 'run:' .. id
end

local function ready_key(queue, priority)
  return P .. 'ready:' .. queue .. ':' .. priority
end

-- Whether the attempt with this token holds the lease of the run; state and token are the record's.
-- Every write of an attempt depends on it.
local function holds_lease(state, token, given)
  return state == 'running' and token == given
end

local function write_event(id, number, kind, payload, attempt, at)
  redis.call('XADD', P .. 'events:' .. id, number .. '-0', 'k', kind, 'p', payload, 'a', attempt, 't', at)
end

-- A run has a stream once its skill has emitted an event, or a reader follows the run: most runs
-- never need one, and an empty stream takes more memory than all the rest of a run. Until then the
-- record keeps the changes of its state, a line each: attempt, time, payload.
local MOST_KEPT = 8

-- Move the changes of state that the record keeps into the stream: its first `last` events.
local function write_kept(id, kept, last)
  local number = 0
  for attempt, at, payload in string.gmatch(kept or '', '(%d+) (%d+) ([^\n]*)\n') do
    if number == last then return end
    number = number + 1
    write_event(id, number, 'state', payload, attempt, at)
  end
end

-- Add a change of state, as event number seq. Returns the new value of the record's field `kept`,
-- and whether the events are in the stream.
local function add_state(id, stream, kept, attempt, seq, payload, now)
  if stream ~= '1' and seq <= MOST_KEPT then
    return (kept or '') .. attempt .. ' ' .. now .. ' ' .. payload .. '\n', false
  end
  write_kept(id, kept, seq - 1)
  write_event(id, seq, 'state', payload, attempt, now)
  return '', true
end

-- The one way to a record: its own fields and those in ARGV from a position on, which are given
-- as a table, too; published is when its message is due.
local function add_record(id, fields, now, published, position)
  redis.call('HSET', run_key(id), 'state', 'queued', 'created', now, 'published', published, 'attempt', 0, 'token', 0,
    'seq', 0, unpack(ARGV, position))
  redis.call('ZADD', P .. 'agent:' .. fields.agent, now, id)
  if fields.deadline then redis.call('ZADD', P .. 'deadlines', fields.deadline, id) end
end

-- The one way into the ready index: the run waits for a worker, and its record says since when.
local function enter_ready(id, queue, priority, now)
  redis.call('SADD', P .. 'queues', queue .. ':' .. priority)
  redis.call('ZADD', ready_key(queue, priority), now, id)
end

-- The same for a run whose message is published now, again.
local function mark_ready(id, queue, priority, now)
  enter_ready(id, queue, priority, now)
  redis.call('HSET', run_key(id), 'published', now)
end

-- The one way into the index of delays, which are counted by queue, and the one way out.
local function start_delay(id, queue, due)
  if redis.call('ZADD', P .. 'delayed', due, id) == 1 then redis.call('HINCRBY', P .. 'delays', queue, 1) end
end

local function end_delay(id, queue)
  if redis.call('ZREM', P .. 'delayed', id) == 0 or not queue then return end
  if redis.call('HINCRBY', P .. 'delays', queue, -1) <= 0 then redis.call('HDEL', P .. 'delays', queue) end
end

-- A run that has a due time may be in the index of delays; no other is.
local function leave_queued(id, queue, priority, due)
  redis.call('ZREM', ready_key(queue, priority), id)
  if due then end_delay(id, queue) end
end

local function leave_running(id, queue)
  redis.call('ZREM', P .. 'leases', id)
  redis.call('SREM', P .. 'running:' .. queue, id)
end

-- List an attempt that ended without ending the run; the record describes the one after it.
local function list_attempt(id, number, worker, started, outcome, now)
  local key = P .. 'attempts:' .. id
  local entry = { number = tonumber(number), worker = worker, started = tonumber(started), ended = now, outcome = outcome }
  if redis.call('RPUSH', key, cjson.encode(entry)) > 99 then
    -- The first one is kept: its start decides if the token was valid in time.
    redis.call('LSET', key, 1, '')
    redis.call('LREM', key, 1, '')
  end
end

local function expire_artifacts(id, ttl)
  local key = P .. 'artifacts:' .. id
  for _, entry in ipairs(redis.call('HVALS', key)) do
    redis.call('PEXPIRE', P .. 'blob:' .. id .. ':' .. cjson.decode(entry).blob, ttl)
  end
  redis.call('PEXPIRE', key, ttl)
end

local function is_live(state)
  return state == 'queued' or state == 'running'
end

-- The one way into the index of pending cleanups: ended and cancelled runs whose children, or which
-- themselves, are still to be ended. From `at` on the reaper does that, unless a process was faster.
local function add_cleanup(id, at)
  redis.call('ZADD', P .. 'cleanups', at, id)
end

-- The process that notes a cleanup mostly does it, too: until then the reaper leaves it alone.
local CLEANUP_MS = 2000
-- The list of an ended run's children is kept so long at least while its cleanup is pending.
local CLEANUP_KEPT_MS = 3600000

-- The cleanup is done. A list of children expires with its record, and is gone where that is.
local function remove_cleanup(id)
  if redis.call('ZREM', P .. 'cleanups', id) == 0 then return 0 end
  local left = redis.call('PTTL', run_key(id))
  if left ~= -1 then redis.call('PEXPIRE', P .. 'children:' .. id, left) end
  return 1
end

-- A record counts as open the runs it called that are neither ended nor cancelled. The list may
-- outlive the record, which must not come back.
local function leave_caller(id, parent)
  if not parent or redis.call('SISMEMBER', P .. 'children:' .. parent, id) == 0 then return end
  if redis.call('HEXISTS', run_key(parent), 'open') == 1 then redis.call('HINCRBY', run_key(parent), 'open', -1) end
end

-- Note on a live run that it shall end; the first reason stays.
local function mark_cancelled(id, parent, reason, code)
  redis.call('HSET', run_key(id), 'cancel', reason, 'cancel_code', code)
  leave_caller(id, parent)
end

-- A request that was answered, but whose answer was lost, comes again: a record knows the last
-- eight by their 16 characters.
local function is_known(known, request)
  return known and request ~= '' and string.find(known, request, 1, true) ~= nil
end

local function note_request(id, known, request)
  if request == '' or is_known(known, request) then return end
  redis.call('HSET', run_key(id), 'requests', string.sub((known or '') .. request, -128))
end

-- What a plain Celery client links to a run, or chains after it, goes on after the run's end. The
-- worker that executes the run sees to that within a moment; the reaper does where none did.
local CANVAS_MS = 10000

local function add_canvas(id, canvas, state, now)
  local goes_on = canvas == 'any' or (canvas == 'errors' and state ~= 'succeeded')
  if goes_on then redis.call('ZADD', P .. 'canvases', now + CANVAS_MS, id) end
end

-- What finish needs of a record, after its state and token.
local function read_for_finish(id)
  return redis.call('HMGET', run_key(id), 'state', 'token', 'attempt', 'seq', 'queue', 'priority', 'due', 'deadline',
    'retention', 'agent', 'created', 'open', 'artifacts', 'settled', 'worker', 'cancel', 'parent', 'requests', 'canvas',
    'stream', 'kept')
end

-- The one way into a terminal state: record, final event, result, indexes and expiry together.
-- r is what read_for_finish returned. meta is the result in Celery's own format, stored under
-- meta_key and published there; settled is the token under which an attempt itself ends the run.
local function finish(id, r, state, code, message, payload, meta_key, meta, settled)
  local run, now = run_key(id), now_ms()
  local listed, seq, ttl = tonumber(r[3]), tonumber(r[4]) + 1, tonumber(r[9])
  if r[1] == 'running' then
    leave_running(id, r[5])
    listed = listed - 1
  else
    leave_queued(id, r[5], r[6], r[7])
  end
  if r[8] then redis.call('ZREM', P .. 'deadlines', id) end
  redis.call('ZADD', P .. 'state:' .. state, r[11], id)
  local kept, is_streamed = add_state(id, r[20], r[21], r[3], seq, payload, now)
  redis.call('HSET', run, 'state', state, 'code', code, 'message', message, 'finished', now, 'seq', seq,
    'settled', settled or '', 'kept', kept)
  -- A run ends once: who may write records could have reopened this one, but not its result.
  local is_first = redis.call('SET', meta_key, meta, 'PX', ttl, 'NX')
  redis.call('PEXPIRE', run, ttl)
  if is_streamed then redis.call('PEXPIRE', P .. 'events:' .. id, ttl) end
  if listed > 0 then redis.call('PEXPIRE', P .. 'attempts:' .. id, ttl) end
  if not r[16] then leave_caller(id, r[17]) end
  if tonumber(r[12] or 0) > 0 then
    add_cleanup(id, now + CLEANUP_MS)
    redis.call('PEXPIRE', P .. 'children:' .. id, math.max(ttl, CLEANUP_KEPT_MS))
  else
    if r[12] then redis.call('PEXPIRE', P .. 'children:' .. id, ttl) end
    if r[16] then redis.call('ZREM', P .. 'cleanups', id) end
  end
  if r[13] then expire_artifacts(id, ttl) end
  redis.call('ZADD', P .. 'expiring', now + ttl, id .. '|' .. state .. '|' .. r[10])
  add_canvas(id, r[19], state, now)
  if is_first then redis.call('PUBLISH', meta_key, meta) end
end
