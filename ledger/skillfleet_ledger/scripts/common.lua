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

-- Append one event of the fleet's own and return its number.
local function add_event(id, attempt, seq, kind, payload, now)
  redis.call('XADD', P .. 'events:' .. id, seq .. '-0', 'k', kind, 'p', payload, 'a', attempt, 't', now)
end

-- The one way into the ready index: the run waits for a worker, its message is published now.
local function mark_ready(id, queue, priority, now)
  redis.call('SADD', P .. 'queues', queue .. ':' .. priority)
  redis.call('ZADD', ready_key(queue, priority), now, id)
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

local function leave_indexes(id, state, queue, priority)
  redis.call('ZREM', P .. 'state:' .. state, id)
  if state == 'queued' then
    redis.call('ZREM', ready_key(queue, priority), id)
    end_delay(id, queue)
  else
    redis.call('ZREM', P .. 'leases', id)
    redis.call('SREM', P .. 'running:' .. queue, id)
  end
end

-- Close the open entry of the attempts list, if there is one.
local function end_attempt(id, outcome, now)
  local key = P .. 'attempts:' .. id
  local last = redis.call('LINDEX', key, -1)
  if not last then return end
  local entry = cjson.decode(last)
  if entry.ended then return end
  entry.ended = now
  entry.outcome = outcome
  redis.call('LSET', key, -1, cjson.encode(entry))
end

-- The one way into a terminal state: record, final event, result, indexes and expiry together.
-- meta is the result in Celery's own format, stored under meta_key and published there.
local function finish(id, state, code, message, payload, meta_key, meta, now)
  local run = run_key(id)
  local r = redis.call('HMGET', run, 'state', 'queue', 'priority', 'attempt', 'seq', 'retention', 'agent', 'created')
  local seq = tonumber(r[5]) + 1
  leave_indexes(id, r[1], r[2], r[3])
  redis.call('ZREM', P .. 'deadlines', id)
  redis.call('ZADD', P .. 'state:' .. state, r[8], id)
  redis.call('HSET', run, 'state', state, 'code', code, 'message', message, 'finished', now, 'seq', seq)
  if r[1] == 'running' then end_attempt(id, state, now) end
  add_event(id, r[4], seq, 'state', payload, now)
  local ttl = tonumber(r[6])
  redis.call('SET', meta_key, meta, 'PX', ttl)
  for _, kind in ipairs({ 'run:', 'events:', 'attempts:', 'children:', 'artifacts:' }) do
    redis.call('PEXPIRE', P .. kind .. id, ttl)
  end
  for _, entry in ipairs(redis.call('HVALS', P .. 'artifacts:' .. id)) do
    redis.call('PEXPIRE', P .. 'blob:' .. id .. ':' .. cjson.decode(entry).blob, ttl)
  end
  redis.call('ZADD', P .. 'expiring', now + ttl, id .. '|' .. state .. '|' .. r[7])
  redis.call('PUBLISH', meta_key, meta)
end
