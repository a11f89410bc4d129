-- One round of the reaper: find what is overdue, restart what can be, report what must end.
-- Every part is bounded, and none looks at finished runs other than those that expire now.
--
-- ARGV[1]  the caller's name; the script does nothing while another name holds the leader lock
-- ARGV[2]  time to live of the leader lock, milliseconds
-- ARGV[3]  most runs a part handles in a round; ten times as many expired ones are forgotten
-- ARGV[4]  how long a published run may wait before its message counts as possibly gone, ms
-- ARGV[5]  prefix of the broker's list keys on this Redis; '-' for a separate broker
-- ARGV[6]  separator between queue and priority in the broker's list keys
-- ARGV[7]  payload of the event that announces a restart
-- ARGV[8..] names of queues that are known to be empty (for a separate broker)
--
-- Returns nil when another holds the lock; else {publish, close, counts, more, cleanups, restarted}:
--   publish  run ids whose message the caller publishes again, and then strikes off `unpublished`
--   close    id, token, why triples: runs the caller closes; why is 'dead', 'released' (too
--            often), 'overdue' or 'cancelled'
--   counts   name, number pairs of what was done: restarted, due, stranded, pruned, aside (runs
--            whose records are unreadable: looked at again in ten minutes)
--   more     1 when a part reached its limit, so that another round is due at once
--   cleanups     run ids whose children the caller cancels, and then strikes off (finish_cleanup.lua); a
--            tenth of the limit, as each may have many
--   restarted  ids of the published runs whose attempt was lost with its worker
--
-- A candidate for closing stays where it was found, a few seconds later: should its closing
-- fail, it comes again, and until then it does not stand in the way of others.
local me, limit, grace, now = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4]), now_ms()
local holder = redis.call('GET', P .. 'reaper')
if holder and holder ~= me then return nil end
redis.call('SET', P .. 'reaper', me, 'PX', ARGV[2])

-- After a gap in the rounds (Redis was away, or restarted) leases expired that no worker could
-- renew: their holders, if they live, get a moment to do so.
local last = tonumber(redis.call('GET', P .. 'reaped') or now)
redis.call('SET', P .. 'reaped', now)
if now - last > 2 * tonumber(ARGV[2]) then redis.call('SET', P .. 'lease_grace', 1, 'PX', 2000) end
local lease_grace = redis.call('EXISTS', P .. 'lease_grace') == 1

local publish, ending, cleanups, more = {}, {}, {}, 0
local again = now + 5000
local restarted, due, stranded, pruned, aside = {}, 0, 0, 0, 0

local function to_end(id, token, why)
  ending[#ending + 1] = id
  ending[#ending + 1] = token
  ending[#ending + 1] = why
end

-- The caller may die before it has published: the run then comes again, in another's round.
local function to_publish(id)
  redis.call('ZADD', P .. 'unpublished', now + 2000, id)
  publish[#publish + 1] = id
end

-- The members of an index whose time has come.
local function past(index, most)
  local found = redis.call('ZRANGEBYSCORE', P .. index, '-inf', now, 'LIMIT', 0, most)
  if #found == most then more = 1 end
  return found
end

-- Any client that may write records can write invalid data: it must not keep the round from all
-- others. A server that refuses to write ends the round all the same, at the ZADD.
local SET_ASIDE_MS = 600000

local function try(index, id, act, ...)
  if pcall(act, id, ...) then return end
  redis.call('ZADD', index, now + SET_ASIDE_MS, id)
  aside = aside + 1
end

local function each(index, most, act)
  for _, id in ipairs(past(index, most)) do try(P .. index, id, act) end
end

-- Runs that an earlier round returned and that were not published.
local function republish(id)
  local r = redis.call('HMGET', run_key(id), 'state', 'queue', 'priority', 'held')
  if r[1] == 'queued' and not r[4] and not redis.call('ZSCORE', P .. 'delayed', id) then
    mark_ready(id, r[2], r[3], now)
    to_publish(id)
  else
    redis.call('ZREM', P .. 'unpublished', id)
  end
end

each('unpublished', limit, republish)

-- Count a lost attempt. One that has recorded something is not counted, so that a long run may lose
-- its worker often: but all in all ten times as often as others, and not where a skill itself says how
-- often it may be lost. Returns how often the run was lost.
local MOST_LOST = 10

local function count_loss(id, lost, most)
  local r = redis.call('HMGET', run_key(id), 'journal', 'strict', 'lost_free', 'journal_seen')
  local entries = r[1] and not r[2] and redis.call('HLEN', P .. 'journal:' .. id) or 0
  local free = tonumber(r[3] or 0)
  if lost + free + 1 >= MOST_LOST * most then
    lost = most
  elseif entries > tonumber(r[4] or 0) then
    redis.call('HSET', run_key(id), 'journal_seen', entries, 'lost_free', free + 1)
    return lost
  else
    lost = lost + 1
  end
  redis.call('HSET', run_key(id), 'lost', lost)
  return lost
end

-- Runs whose lease ran out. The token moves on at once: the old attempt can write no more.
local function restart(id)
  local run = run_key(id)
  local r = redis.call('HMGET', run, 'state', 'token', 'lost', 'max_deliveries', 'cancel', 'deadline', 'queue',
    'priority', 'seq', 'attempt', 'stream', 'orphaned', 'worker', 'started', 'kept', 'executed')
  if r[1] ~= 'running' then
    redis.call('ZREM', P .. 'leases', id)
  else
    local lost = tonumber(r[3] or 0)
    if r[12] ~= r[2] then
      lost = count_loss(id, lost, tonumber(r[4]))
      -- The token of an attempt, and its executing time as its worker last reported it.
      local token, executed = string.match(r[16] or '', '^(%d+) (%d+)$')
      if token == r[2] then redis.call('HINCRBY', run, 'spent', executed) end
      r[2] = tostring(redis.call('HINCRBY', run, 'token', 1))
      redis.call('HSET', run, 'orphaned', r[2])
      redis.call('HDEL', run, 'claim')
    end
    redis.call('ZADD', P .. 'leases', again, id)
    if r[5] then
      to_end(id, r[2], 'cancelled')
    elseif r[6] and tonumber(r[6]) <= now then
      to_end(id, r[2], 'overdue')
    elseif lost >= tonumber(r[4]) then
      to_end(id, r[2], 'dead')
    else
      local seq = tonumber(r[9]) + 1
      leave_running(id, r[7])
      local kept = add_state(id, r[11], r[15], r[10], seq, ARGV[7], now)
      redis.call('HSET', run, 'state', 'queued', 'seq', seq, 'kept', kept)
      list_attempt(id, r[10], r[13], r[14], 'lost', now)
      mark_ready(id, r[7], r[8], now)
      to_publish(id)
      restarted[#restarted + 1] = id
    end
  end
end

if not lease_grace then each('leases', limit, restart) end

-- Pending cleanups of ended and cancelled runs: their children are to be ended, else they themselves.
local function check_cleanup(id)
  local r = redis.call('HMGET', run_key(id), 'state', 'token', 'cancel', 'open', 'lost', 'max_deliveries')
  local is_spent = tonumber(r[5] or 0) >= tonumber(r[6] or math.huge)
  if is_live(r[1]) and not r[3] and not is_spent then
    -- An idempotency key has brought the id back.
    redis.call('PERSIST', P .. 'children:' .. id)
    return redis.call('ZREM', P .. 'cleanups', id)
  end
  local calls = tonumber(r[4] or 0) > 0 and (r[3] or not is_live(r[1]))
  if calls or (not r[1] and redis.call('EXISTS', P .. 'children:' .. id) == 1) then
    cleanups[#cleanups + 1] = id
  elseif r[1] == 'queued' or r[1] == 'waiting' then
    to_end(id, r[2], r[3] and 'cancelled' or 'released')
  else
    return remove_cleanup(id)
  end
  add_cleanup(id, again)
end

each('cleanups', math.max(1, math.floor(limit / 10)), check_cleanup)

-- Ended runs whose canvas has not gone on: their message is published again, and its receiver continues it.
local function continue_canvas(id)
  local run = run_key(id)
  if redis.call('HEXISTS', run, 'state') == 0 then return redis.call('ZREM', P .. 'canvases', id) end
  local tries = redis.call('HINCRBY', run, 'canvas_tries', 1)
  redis.call('ZADD', P .. 'canvases', now + 3 * CANVAS_MS * 2 ^ math.min(tries - 1, 6), id)
  publish[#publish + 1] = id
end

each('canvases', limit, continue_canvas)

-- Delays that are over.
local function end_wait(id)
  local r = redis.call('HMGET', run_key(id), 'state', 'queue', 'priority')
  if r[1] ~= 'queued' then
    end_delay(id, r[2])
  else
    end_delay(id, r[2])
    mark_ready(id, r[2], r[3], now)
    redis.call('HDEL', run_key(id), 'due')
    to_publish(id)
    due = due + 1
  end
end

each('delayed', limit, end_wait)

-- Waits that expire.
local function expire_wait(entry)
  local id, wait = string.match(entry, '^(.*):(%d+)$')
  local stored = id and redis.call('HGET', P .. 'waits:' .. id, wait)
  if stored then
    local waiting = redis.call('HGET', run_key(id), 'waiting')
    if decide(id, wait, kind_of(stored), waiting, 'expired', '0', now, '{}', 'null') then to_publish(id) end
  end
  redis.call('ZREM', P .. 'timers', entry)
end

each('timers', limit, expire_wait)

-- Parked runs whose worker did not report the end of the handler: its lease would have ended by now.
local function forget_handler(id)
  if end_parking(id) then to_publish(id) end
end

if not lease_grace then each('parking', limit, forget_handler) end

-- Deadlines that passed in the queue; a running attempt ends itself at its deadline.
local function end_overdue(id)
  local r = redis.call('HMGET', run_key(id), 'state', 'token')
  if r[1] == 'queued' or r[1] == 'waiting' then
    redis.call('ZADD', P .. 'deadlines', again, id)
    to_end(id, r[2], 'overdue')
  elseif r[1] == 'running' then
    redis.call('ZADD', P .. 'deadlines', now + 60000, id)
  else
    redis.call('ZREM', P .. 'deadlines', id)
  end
end

each('deadlines', limit, end_overdue)

-- Queued runs whose message may be gone: their queue is empty, or later ones overtook them.
local empty = {}
for i = 8, #ARGV do empty[ARGV[i]] = true end

local function is_empty(queue, priority)
  if ARGV[5] == '-' then return empty[queue] end
  local list = ARGV[5] .. queue
  if priority ~= '0' then list = list .. ARGV[6] .. priority end
  return redis.call('LLEN', list) == 0
end

-- Publish one run again unless that was done lately: each time its patience doubles.
local function recall(id, published, queue, priority)
  local r = redis.call('HMGET', run_key(id), 'state', 'stranded')
  if r[1] ~= 'queued' then
    redis.call('ZREM', ready_key(queue, priority), id)
  elseif now - published >= grace * 2 ^ math.min(tonumber(r[2] or 0), 8) then
    redis.call('HINCRBY', run_key(id), 'stranded', 1)
    mark_ready(id, queue, priority, now)
    to_publish(id)
    stranded = stranded + 1
  end
end

local function recall_stranded(name)
  local queue, priority = string.match(name, '^(.*):(%d+)$')
  if not queue then return redis.call('SREM', P .. 'queues', name) end
  local ready = ready_key(queue, priority)
  if redis.call('ZCARD', ready) == 0 then
    redis.call('SREM', P .. 'queues', name)
    return redis.call('HDEL', P .. 'watermark', name)
  end
  local overtaken = (tonumber(redis.call('HGET', P .. 'watermark', name) or 0) or 0) - grace
  local latest = now - grace
  if not is_empty(queue, priority) then latest = math.min(latest, overtaken - 1) end
  -- Looks further than it acts, so that runs with long patience do not hide those behind them.
  local waiting = redis.call('ZRANGEBYSCORE', ready, '-inf', latest, 'WITHSCORES', 'LIMIT', 0, 10 * limit)
  local most = stranded + limit
  for i = 1, #waiting, 2 do
    if stranded == most then
      more = 1
      break
    end
    try(ready, waiting[i], recall, tonumber(waiting[i + 1]), queue, priority)
  end
end

for _, name in ipairs(redis.call('SMEMBERS', P .. 'queues')) do recall_stranded(name) end

-- An idempotency key may have brought the id back: the new run stays in the indexes it belongs to.
local function leave_indexes(entry)
  local state, agent, length, more_length, rest = string.match(entry, '^([^|]*)|([^|]*)|(%d+)|(%d+)|(.*)$')
  local id, session = string.sub(rest, 1, length), string.sub(rest, length + 1, length + more_length)
  local tags = string.sub(rest, length + more_length + 1)
  local r = redis.call('HMGET', run_key(id), 'state', 'agent', 'tags', 'session')
  local kept = {}
  local function keep(key) kept[key] = true end
  local function leave(key)
    if not kept[key] then redis.call('ZREM', key, id) end
  end
  if r[1] then
    each_index(r[2], r[3], r[4], keep)
    each_index(r[2], r[3], r[4], keep, r[1])
  end
  each_index(agent, tags, session, leave)
  if is_indexed(state) then each_index(agent, tags, session, leave, state) end
end

-- Index entries of runs whose records have expired, a second ago so that they surely have.
local expired = redis.call('ZRANGEBYSCORE', P .. 'expiring', '-inf', now - 1000, 'LIMIT', 0, 10 * limit)
if #expired == 10 * limit then more = 1 end
for _, entry in ipairs(expired) do
  redis.call('ZREM', P .. 'expiring', entry)
  -- An entry, or a record, that is not valid must not keep the round from the others.
  pcall(leave_indexes, entry)
  pruned = pruned + 1
end
redis.call('ZREMRANGEBYSCORE', P .. 'workers', '-inf', now)

-- What was due a minute ago has been started: what is left has lost its record.
redis.call('ZREMRANGEBYSCORE', P .. 'alarms', '-inf', now - 60000)

local counts = { 'restarted', #restarted, 'due', due, 'stranded', stranded, 'pruned', pruned, 'aside', aside }
return { publish, ending, counts, more, cleanups, restarted }
