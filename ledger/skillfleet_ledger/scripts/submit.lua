-- Write the record of a new run and, where the broker is this Redis, publish its message.
--
-- KEYS[2]  the broker's list to push the message onto; absent when the caller publishes
-- ARGV[1]  run id
-- ARGV[2]  delay before it may start, milliseconds (0: now)
-- ARGV[3]  the message, ready for the broker's list; '' when the caller publishes
-- ARGV[4]  most runs a tree may hold (checked only for a child)
-- ARGV[5]  ARGV[6]  with on_busy 'send': the run whose turn it is in the session, as the caller knows
--          it, and the message for its inbox (send.lua); else ''
-- ARGV[7..] field, value pairs of the record; among them queue, priority, agent, digest, parent, root,
--          parent_token, tags, session, on_busy
--
-- Returns {1} when the run was created, {0, digest of the arguments} when the id exists,
-- {-1, reason} when its tree takes no more runs ('parent_ended', 'tree_full', 'cycle',
-- 'no_calls' or 'no_tokens'), or its session does not ('session_busy', 'session_full' or
-- 'session_moved': another run has its turn, for which the message is not meant). After the 1 follow
-- the ids of the runs that the message has woken, which the caller publishes.

-- Runs that wait in a session; more would never come to their turn.
local MOST_WAITING = 1000

local id, delay = ARGV[1], tonumber(ARGV[2])
local run = run_key(id)
local digest = redis.call('HGET', run, 'digest')
if digest then return { 0, digest } end

local fields = {}
for i = 7, #ARGV, 2 do fields[ARGV[i]] = ARGV[i + 1] end

local session, current = fields.session, nil
if session then
  current = current_run(session)
  if current and fields.on_busy == 'reject' then return { -1, 'session_busy' } end
  if current and fields.on_busy == 'send' and current ~= ARGV[5] then return { -1, 'session_moved' } end
  if redis.call('ZCARD', P .. 'held:' .. SESSION .. session) >= MOST_WAITING then return { -1, 'session_full' } end
end

-- Give the run its place in its session, which is busy with another one or begins with it.
local function enter_session(now)
  local key = session_key(session)
  local position = redis.call('HINCRBY', key, 'count', 1)
  if position == 1 then redis.call('HSET', key, 'created', now) end
  redis.call('ZADD', P .. 'session_runs:' .. session, position, id)
  write_shared('ZADD', P .. 'sessions', now, session)
  redis.call('PUBLISH', key, id)
  if not current then
    redis.call('HSET', key, 'current', id)
    return
  end
  hold(id, SESSION .. session, fields.queue, position, now + HELD_CHECK_MS)
  -- Received as a message, it is a run no more (receive.lua); unread, it has its turn later.
  if fields.on_busy == 'send' then put_message(current, ARGV[6]) end
  local r = redis.call('HMGET', run_key(current), 'state', 'worker', 'cancel', 'parent')
  if fields.on_busy ~= 'cancel_running' or r[3] then return end
  local reason = 'a later run of its session takes its place'
  mark_cancelled(current, r[4], reason, 'cancelled_by_caller')
  -- A worker ends the run that it executes; the reaper does with any other, and with its children.
  add_cleanup(current, now)
  if r[1] == 'running' then redis.call('PUBLISH', P .. 'worker:' .. r[2], 'cancel ' .. current .. ' ' .. reason) end
end

if fields.parent then
  local parent = redis.call('HMGET', run_key(fields.parent), 'state', 'cancel', 'token')
  local token = fields.parent_token or parent[3]
  if parent[2] or not holds_lease(parent[1], parent[3], token) then return { -1, 'parent_ended' } end
  local root = run_key(fields.root)
  -- A count on a root that has expired would bring it back, without a record and for ever.
  if redis.call('EXISTS', root) == 0 then return { -1, 'parent_ended' } end
  -- The root counts, too.
  if tonumber(redis.call('HGET', root, 'tree') or 0) + 1 >= tonumber(ARGV[4]) then
    return { -1, 'tree_full' }
  end
  -- The same call again, below itself, would never end. Budgets hold for all that is below them.
  local up, budgeted = fields.parent, {}
  while up do
    local r = redis.call('HMGET', run_key(up), 'agent', 'skill', 'digest', 'parent', 'budget_calls', 'spent_calls',
      'budget_tokens', 'spent_tokens')
    if r[1] == fields.agent and r[2] == fields.skill and r[3] == fields.digest then return { -1, 'cycle' } end
    if r[5] and tonumber(r[6] or 0) >= tonumber(r[5]) then return { -1, 'no_calls' } end
    if r[7] and tonumber(r[8] or 0) >= tonumber(r[7]) then return { -1, 'no_tokens' } end
    if r[5] then budgeted[#budgeted + 1] = up end
    up = r[4]
  end
  for _, ancestor in ipairs(budgeted) do redis.call('HINCRBY', run_key(ancestor), 'spent_calls', 1) end
  redis.call('HINCRBY', root, 'tree', 1)
  redis.call('SADD', P .. 'children:' .. fields.parent, id)
  redis.call('HINCRBY', run_key(fields.parent), 'open', 1)
end

local now = now_ms()
add_record(id, fields, now, now + delay, ARGV, 7)
if session then enter_session(now) end
if delay > 0 then
  redis.call('HSET', run, 'due', now + delay)
  start_delay(id, fields.queue, now + delay)
elseif not current then
  enter_ready(id, fields.queue, fields.priority, now)
  if ARGV[3] ~= '' then write_shared('LPUSH', KEYS[2], ARGV[3]) end
end
return { 1, unpack(take_woken()) }
