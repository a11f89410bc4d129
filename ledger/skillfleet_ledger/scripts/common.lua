-- Shared by every script: this text is put in front of each of them when it is loaded.
--
-- KEYS[1] is always the shard's prefix, "{<namespace>:<shard>}:"; every other key of the
-- shard is built from it and so lies in the same slot. keys.py documents all of them.

local P = KEYS[1]

-- The time, which is the same for all of a script.
local clock

local function now_ms()
  if not clock then
    local time = redis.call('TIME')
    clock = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  end
  return clock
end

-- Writes to keys that runs share. A batch of calls (batch.lua) collects them and makes one command
-- of those for the same key; in the order of the calls, as far as a key is concerned.
local collected, newest

local function write_shared(command, key, ...)
  if not collected then return redis.call(command, key, ...) end
  local entry = newest[key]
  if not entry or entry[1] ~= command then
    entry = { command, key }
    newest[key] = entry
    collected[#collected + 1] = entry
  end
  for _, value in ipairs({ ... }) do entry[#entry + 1] = value end
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

-- The payload of a change of state as an event has it. The start of an attempt is kept as '=' and the
-- worker's name: a value of up to 64 bytes lets Redis store the record in half of the memory.
local function full_payload(payload)
  local worker = string.match(payload, '^=(.*)')
  return worker and '{"state":"running","worker":' .. cjson.encode(worker) .. '}' or payload
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
    write_event(id, number, 'state', full_payload(payload), attempt, at)
  end
end

-- Add a change of state, as event number seq. Returns the new value of the record's field `kept`,
-- and whether the events are in the stream.
local function add_state(id, stream, kept, attempt, seq, payload, now)
  if stream ~= '1' and seq <= MOST_KEPT then
    return (kept or '') .. attempt .. ' ' .. now .. ' ' .. payload .. '\n', false
  end
  write_kept(id, kept, seq - 1)
  write_event(id, seq, 'state', full_payload(payload), attempt, now)
  return '', true
end

-- Call act with the key of every index by creation that a run belongs to, whatever its state; with a
-- state, of those that hold the runs in this state alone. tags is the record's field, KEY=VALUE lines.
local function each_index(agent, tags, session, act, state)
  local start = P .. 'index:'
  if state then start = start .. 'state:' .. state .. ':' end
  act(start .. 'all')
  act(start .. 'agent:' .. agent)
  for tag in string.gmatch(tags or '', '[^\n]+') do act(start .. 'tag:' .. tag) end
  if (session or '') ~= '' then act(start .. 'session:' .. session) end
end

-- Most runs succeed: indexes of these would find them no sooner than those of all runs.
local function is_indexed(state)
  return state ~= 'succeeded'
end

-- Note when an ended run leaves its indexes, and which: its record is gone by then. The lengths say
-- where the id and the session end, as they and the tags may hold any character.
local function expire_indexes(id, state, agent, tags, session, at)
  local ids = id .. (session or '')
  local lengths = #id .. '|' .. #ids - #id
  write_shared('ZADD', P .. 'expiring', at, state .. '|' .. agent .. '|' .. lengths .. '|' .. ids .. (tags or ''))
end

-- Note how many events with an address are in the stream: address, number pairs in ARGV from `first`
-- to `last`. Writes may overtake each other: the largest number counts.
local function note_emitted(id, first, last)
  local key = P .. 'emitted:' .. id
  for i = first, last or #ARGV, 2 do
    local known = tonumber(redis.call('HGET', key, ARGV[i]) or 0)
    if tonumber(ARGV[i + 1]) > known then redis.call('HSET', key, ARGV[i], ARGV[i + 1]) end
  end
end

-- The one way to a record: its own fields and those in args from a position on, which are given
-- as a table, too; published is when its message is due.
local function add_record(id, fields, now, published, args, position)
  redis.call('HSET', run_key(id), 'state', 'queued', 'created', now, 'published', published, 'attempt', 0, 'token', 0,
    'seq', 0, unpack(args, position))
  each_index(fields.agent, fields.tags, fields.session, function(key) write_shared('ZADD', key, now, id) end)
  if fields.deadline then redis.call('ZADD', P .. 'deadlines', fields.deadline, id) end
end

-- The one way into the ready index: the run waits for a worker, and its record says since when.
local function enter_ready(id, queue, priority, now)
  write_shared('SADD', P .. 'queues', queue .. ':' .. priority)
  write_shared('ZADD', ready_key(queue, priority), now, id)
end

-- The same for a run whose message is published now, again.
local function mark_ready(id, queue, priority, now)
  enter_ready(id, queue, priority, now)
  redis.call('HSET', run_key(id), 'published', now)
end

-- What will need a worker of a queue by itself, `QUEUE|WHAT` by when: delayed runs and parked ones, whose
-- first wait expires then, by their ids, and schedules. They are demand while no worker is left.
local function note_due(queue, what, at)
  redis.call('ZADD', P .. 'alarms', at, queue .. '|' .. what)
end

local function forget_due(queue, what)
  redis.call('ZREM', P .. 'alarms', queue .. '|' .. what)
end

-- The one way into the index of delays, which are counted by queue, and the one way out.
local function start_delay(id, queue, due)
  note_due(queue, id, due)
  if redis.call('ZADD', P .. 'delayed', due, id) == 1 then redis.call('HINCRBY', P .. 'delays', queue, 1) end
end

local function end_delay(id, queue)
  if redis.call('ZREM', P .. 'delayed', id) == 0 or not queue then return end
  forget_due(queue, id)
  if redis.call('HINCRBY', P .. 'delays', queue, -1) <= 0 then redis.call('HDEL', P .. 'delays', queue) end
end

-- A run that has a due time may be in the index of delays; no other is.
local function leave_queued(id, queue, priority, due)
  write_shared('ZREM', ready_key(queue, priority), id)
  if due then end_delay(id, queue) end
end

-- Runs that this script made ready: its caller publishes their messages, and then strikes them off
-- `unpublished`. What it does not come to, the reaper does after that time.
local WAKE_MS = 2000
local woken = {}

local function wake_ready(id, queue, priority, now)
  mark_ready(id, queue, priority, now)
  redis.call('ZADD', P .. 'unpublished', now + WAKE_MS, id)
  woken[#woken + 1] = id
end

-- One script may execute several calls (batch.lua): each returns its own.
local function take_woken()
  local ids = woken
  woken = {}
  return ids
end

-- A held run is queued, but not ready: it has no message until its reason to wait is gone. The index
-- of all held runs has the time (ms) at which the reaper looks at it next.
local HELD_CHECK_MS = 60000
local UNSERVED = 'unserved:'

-- Runs that no live worker serves are counted by skill and queue: `<agent>.<skill>|<queue>`.
local function is_unserved(reason)
  return string.sub(reason, 1, #UNSERVED) == UNSERVED
end

local function count_unserved(reason, queue, change)
  if not is_unserved(reason) then return end
  local name = string.sub(reason, #UNSERVED + 1) .. '|' .. queue
  if redis.call('HINCRBY', P .. 'unserved', name, change) <= 0 then redis.call('HDEL', P .. 'unserved', name) end
end

-- The one way into the indexes of held runs, and the one way out. `order` decides which one of
-- those with the same reason is freed first.
local function hold(id, reason, queue, order, check_at)
  redis.call('HSET', run_key(id), 'held', reason)
  redis.call('ZADD', P .. 'held', check_at, id)
  if redis.call('ZADD', P .. 'held:' .. reason, order, id) == 1 then count_unserved(reason, queue, 1) end
end

local function leave_held(id, reason, queue)
  redis.call('HDEL', run_key(id), 'held')
  redis.call('ZREM', P .. 'held', id)
  if redis.call('ZREM', P .. 'held:' .. reason, id) == 1 then count_unserved(reason, queue, -1) end
end

-- Free the first runs that a reason holds back, at most `count`: they are ready now, and woken.
-- Returns the first of them, or nil.
local function release_held(reason, count, now)
  local first
  for _, id in ipairs(redis.call('ZRANGE', P .. 'held:' .. reason, 0, count - 1)) do
    local r = redis.call('HMGET', run_key(id), 'state', 'queue', 'priority')
    if r[1] == 'queued' then
      leave_held(id, reason, r[2])
      wake_ready(id, r[2], r[3], now)
      first = first or id
    else
      redis.call('ZREM', P .. 'held', id)
      redis.call('ZREM', P .. 'held:' .. reason, id)
    end
  end
  return first
end

local function leave_running(id, queue)
  write_shared('ZREM', P .. 'leases', id)
  write_shared('SREM', P .. 'running:' .. queue, id)
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

-- A parked run is stored as 'waiting'. One that waits in its worker's memory is 'running'.
local function is_live(state)
  return state == 'queued' or state == 'running' or state == 'waiting'
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

-- The kinds of a run's undecided waits, one after the other, are in the field `waiting` of its
-- record. Returns them without one of a kind.
local function without(kinds, kind)
  local left, is_found = {}, false
  for each in string.gmatch(kinds or '', '%l+') do
    if each == kind and not is_found then
      is_found = true
    else
      left[#left + 1] = each
    end
  end
  return table.concat(left, ',')
end

-- What a script that changes waits needs of a record.
local function read_for_waits(id)
  return redis.call('HMGET', run_key(id), 'token', 'state', 'seq', 'attempt', 'stream', 'kept', 'waiting', 'announced')
end

-- A producer may write any value into a record: what is no kind is left out.
local function waiting_payload(waiting)
  if waiting == '' then return '{"state":"running"}' end
  return '{"state":"waiting","waits":["' .. string.gsub(without(waiting, ''), ',', '","') .. '"]}'
end

-- Write what changed about a run's waits: an event of that kind ('' for none), the state that the
-- run shows from now on, and the field `waiting`. r is what read_for_waits returned, and has the new
-- values then. Returns the number of the last event.
local function note_waits(id, r, waiting, kind, payload)
  local seq, kept, now = tonumber(r[3]), r[6] or '', now_ms()
  local announced = waiting == '' and '' or '1'
  if kind ~= '' then
    write_kept(id, kept, seq)
    seq, kept, r[5] = seq + 1, '', '1'
    write_event(id, seq, kind, payload, r[4], now)
  end
  if announced ~= (r[8] or '') then
    seq = seq + 1
    kept = add_state(id, r[5], kept, r[4], seq, waiting_payload(waiting), now)
  end
  r[3], r[6], r[7], r[8] = seq, kept, waiting, announced
  redis.call('HSET', run_key(id), 'journal', '1', 'waiting', waiting, 'announced', announced, 'seq', seq, 'kept', kept)
  if kind ~= '' then redis.call('HSET', run_key(id), 'stream', '1') end
  return seq
end

-- A wait is stored in three lines (waits.py); the first has its kind, when it expires (ms, or '-'),
-- when it was opened, the run it waits for (or '-') and digests of its identity and its question.
local function kind_of(wait)
  return string.match(wait, '^(%l+) ')
end

-- Whether the events of a run show its waits of that kind.
local function is_shown(kind)
  return kind ~= 'timer' and kind ~= 'call'
end

local function quoted(text)
  return cjson.encode(type(text) == 'string' and text or '')
end

local function opened_payload(wait, payload, reason)
  local why = reason and '"reason":' .. quoted(reason) .. ',' or ''
  return '{"id":"' .. wait .. '",' .. why .. string.sub(payload, 2)
end

local function ended_payload(wait, kind, outcome, by, reason)
  return '{"id":"' .. wait .. '","kind":"' .. kind .. '","outcome":"' .. outcome .. '","by":' .. quoted(by)
    .. ',"reason":' .. quoted(reason) .. '}'
end

-- Remove a wait and announce how it ended; `withdrawn` is why it ends without what it asked for, or ''.
-- A decision is stored in three lines (waits.py): outcome, digest and time; who and why (JSON); the
-- value. Its first line is kept, so that the same answer is known when it comes again.
local function close_wait(id, r, wait, withdrawn)
  local decisions = P .. 'decisions:' .. id
  local stored, decision = redis.call('HGET', P .. 'waits:' .. id, wait), redis.call('HGET', decisions, wait)
  if not stored then return tonumber(r[3]) end
  local kind = kind_of(stored)
  redis.call('HDEL', P .. 'waits:' .. id, wait)
  redis.call('ZREM', P .. 'timers', id .. ':' .. wait)
  local waiting, outcome, meta = r[7] or '', 'answered', {}
  if decision then
    local first, second = string.match(decision, '^([^\n]*)\n?([^\n]*)')
    outcome = string.match(first, '^(%l+) ') or outcome
    local _, decoded = pcall(cjson.decode, second)
    if type(decoded) == 'table' then meta = decoded end
    if outcome == 'expired' then
      redis.call('HDEL', decisions, wait)
    else
      redis.call('HSET', decisions, wait, first)
    end
  else
    waiting = without(waiting, kind)
  end
  if withdrawn ~= '' then outcome, meta = 'withdrawn', { reason = withdrawn } end
  local event = is_shown(kind) and 'wait_ended' or ''
  return note_waits(id, r, waiting, event, ended_payload(wait, kind, outcome, meta.by, meta.reason))
end

-- The one way into the index of parked runs, and the one way out; expires is when the first of the
-- waits does.
local function enter_parked(id, queue, now, expires)
  redis.call('ZADD', P .. 'parked', now, id)
  if expires then note_due(queue, id, expires) end
end

local function leave_parked(id, queue)
  redis.call('ZREM', P .. 'parked', id)
  forget_due(queue, id)
end

-- Let a run continue, as something happened that it may wait for: a parked one is queued, the worker
-- of a running one looks at its waits. Returns true for a parked run, which the caller publishes. That it
-- was woken is only noted while its handler may still execute: two attempts never execute at once.
local function wake(id)
  local r, now = redis.call('HMGET', run_key(id), 'state', 'worker', 'queue', 'priority', 'parking'), now_ms()
  if r[1] == 'running' then redis.call('PUBLISH', P .. 'worker:' .. r[2], 'wake ' .. id) end
  if r[1] ~= 'waiting' then return false end
  if r[5] then redis.call('HSET', run_key(id), 'woken', '1') end
  if r[5] then return false end
  leave_parked(id, r[3])
  redis.call('HSET', run_key(id), 'state', 'queued')
  wake_ready(id, r[3], r[4], now)
  return true
end

-- The handler of a parked run does not execute any more. Returns true if the run continues now.
local function end_parking(id)
  local is_woken = redis.call('HGET', run_key(id), 'woken')
  redis.call('ZREM', P .. 'parking', id)
  redis.call('HDEL', run_key(id), 'parking', 'woken')
  return is_woken and wake(id)
end

-- The unread messages of a run: their number, and their bytes.
local MOST_MESSAGES, MOST_INBOX_BYTES = 1000, 1048576

-- Put a message into the inbox of a live run. Returns false when it is full, and whether the run was
-- parked and is queued now.
local function put_message(id, message)
  local run, inbox = run_key(id), P .. 'inbox:' .. id
  local r = redis.call('HMGET', run, 'inbox_bytes', 'waiting')
  local size = tonumber(r[1] or 0) + #message
  if redis.call('LLEN', inbox) >= MOST_MESSAGES or size > MOST_INBOX_BYTES then return false, false end
  redis.call('RPUSH', inbox, message)
  redis.call('HSET', run, 'journal', '1', 'inbox_bytes', size)
  return true, string.find(r[2] or '', 'message', 1, true) and wake(id)
end

-- Write the decision of a wait that has none. Returns whether the run was parked and is queued now.
local function decide(id, wait, kind, waiting, outcome, digest, now, meta, value)
  local decision = outcome .. ' ' .. digest .. ' ' .. now .. '\n' .. meta .. '\n' .. value
  if redis.call('HSETNX', P .. 'decisions:' .. id, wait, decision) == 0 then return false end
  redis.call('HSET', run_key(id), 'waiting', without(waiting, kind))
  return wake(id)
end

-- An ended run waits for nothing. What it has recorded is kept as long as its record.
local function end_waits(id)
  local waits = redis.call('HKEYS', P .. 'waits:' .. id)
  for _, wait in ipairs(waits) do redis.call('ZREM', P .. 'timers', id .. ':' .. wait) end
  redis.call('UNLINK', P .. 'waits:' .. id)
end

local function expire_journal(id, ttl)
  for _, kind in ipairs({ 'journal:', 'decisions:', 'inbox:', 'emitted:', 'unfinished:', 'values:', 'texts:' }) do
    redis.call('PEXPIRE', P .. kind .. id, ttl)
  end
  for _, digest in ipairs(redis.call('SMEMBERS', P .. 'values:' .. id)) do
    redis.call('PEXPIRE', P .. 'blob:' .. id .. ':' .. digest, ttl)
  end
end

-- A run whose caller is live and has a journal is kept until the caller's end, and its retention after
-- that: ten years are longer than any wait.
local KEPT_MS = 315360000000

-- What the ended run has called, in no session, is not needed any more. meta_key is its own result's key.
local function release_called(id, meta_key)
  for _, child in ipairs(redis.call('SMEMBERS', P .. 'children:' .. id)) do
    local r = redis.call('HMGET', run_key(child), 'state', 'retention', 'agent', 'journal', 'tags')
    local ttl = tonumber(r[2])
    -- A live run has no time to live.
    if r[1] and redis.call('PTTL', run_key(child)) > ttl then
      for _, kind in ipairs({ 'run:', 'events:', 'attempts:' }) do redis.call('PEXPIRE', P .. kind .. child, ttl) end
      redis.call('PEXPIRE', string.sub(meta_key, 1, -1 - #id) .. child, ttl)
      -- A pending cleanup needs the list, and sets its expiry.
      if not redis.call('ZSCORE', P .. 'cleanups', child) then redis.call('PEXPIRE', P .. 'children:' .. child, ttl) end
      expire_artifacts(child, ttl)
      if r[4] then expire_journal(child, ttl) end
      expire_indexes(child, r[1], r[3], r[5], nil, now_ms() + ttl)
    end
  end
end

-- The runs of a session execute one at a time, in the order of their submission. The hash of a
-- session names the one that may, `current`; those after it are held.
local SESSION = 'session:'
local MOST_SESSION_RUNS = 10000

local function session_key(session)
  return P .. SESSION .. session
end

-- The run of a session that may execute now; nil when it has ended, or there is none.
local function current_run(session)
  local current = redis.call('HGET', session_key(session), 'current')
  if not current or not is_live(redis.call('HGET', run_key(current), 'state')) then return nil end
  return current
end

-- Let the next run of a session execute, if there is one.
local function free_session(session, now)
  local reason, next_run = SESSION .. session, nil
  repeat
    next_run = release_held(reason, 1, now)
  until next_run or redis.call('EXISTS', P .. 'held:' .. reason) == 0
  redis.call('HSET', session_key(session), 'current', next_run or '')
end

local function leave_session(id, session, now)
  if redis.call('HGET', session_key(session), 'current') == id then free_session(session, now) end
  redis.call('ZREMRANGEBYRANK', P .. 'session_runs:' .. session, 0, -1 - MOST_SESSION_RUNS)
  write_shared('ZADD', P .. 'sessions', now, session)
end

-- What finish needs of a record, after its state and token.
local function read_for_finish(id)
  return redis.call('HMGET', run_key(id), 'state', 'token', 'attempt', 'seq', 'queue', 'priority', 'due', 'deadline',
    'retention', 'agent', 'created', 'open', 'artifacts', 'settled', 'worker', 'cancel', 'parent', 'requests', 'canvas',
    'stream', 'kept', 'journal', 'tags', 'held', 'session')
end

-- The one way into a terminal state: record, final event, result, indexes and expiry together.
-- r is what read_for_finish returned. meta is the result in Celery's own format, stored under
-- meta_key and published there; settled is the token under which an attempt itself ends the run.
local function finish(id, r, state, code, message, payload, meta_key, meta, settled)
  local run, now = run_key(id), now_ms()
  local listed, seq, ttl = tonumber(r[3]), tonumber(r[4]) + 1, tonumber(r[9])
  local caller = r[17] and redis.call('HMGET', run_key(r[17]), 'state', 'journal', 'waiting') or {}
  local is_kept = is_live(caller[1]) and caller[2]
  if is_kept then ttl = KEPT_MS end
  if r[1] == 'running' then
    leave_running(id, r[5])
    listed = listed - 1
  else
    leave_queued(id, r[5], r[6], r[7])
    if r[1] == 'waiting' then leave_parked(id, r[5]) end
    if r[1] == 'waiting' then redis.call('ZREM', P .. 'parking', id) end
    if r[1] == 'waiting' then redis.call('HDEL', run, 'parking', 'woken') end
    if r[24] then leave_held(id, r[24], r[5]) end
  end
  if r[8] then redis.call('ZREM', P .. 'deadlines', id) end
  if is_indexed(state) then
    each_index(r[10], r[23], r[25], function(key) write_shared('ZADD', key, r[11], id) end, state)
  end
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
  if r[22] then
    end_waits(id)
    expire_journal(id, ttl)
    release_called(id, meta_key)
  end
  expire_indexes(id, state, r[10], r[23], r[25], now + ttl)
  add_canvas(id, r[19], state, now)
  if is_first then redis.call('PUBLISH', meta_key, meta) end
  local is_awaited = is_kept and string.find(caller[3] or '', 'call', 1, true)
  if is_awaited then wake(r[17]) end
  if r[25] then leave_session(id, r[25], now) end
end
