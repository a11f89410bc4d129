-- The part of a reaper's round that looks at held runs and at sessions: what waited too long for a
-- worker that serves it must end, and sessions that had no run for long are forgotten.
--
-- ARGV[1]  most runs and most sessions that are handled
-- ARGV[2]  how long a session is kept without runs, milliseconds
-- ARGV[3]  how long the revocation of a forgotten session's grants is noted, milliseconds
--
-- Returns {ending, woken}: ending is a flat list of id and token of the runs that the caller ends (each
-- comes again some seconds later, should its end fail); woken are the runs that it publishes.
local now, ending = now_ms(), {}

local function check(id)
  local r = redis.call('HMGET', run_key(id), 'state', 'token', 'held')
  if r[1] ~= 'queued' or not r[3] then
    redis.call('ZREM', P .. 'held', id)
  elseif is_unserved(r[3]) then
    redis.call('ZADD', P .. 'held', now + 5000, id)
    ending[#ending + 1] = id
    ending[#ending + 1] = r[2]
  else
    redis.call('ZADD', P .. 'held', now + HELD_CHECK_MS, id)
    -- What its session waited for may be gone without an end.
    local session = string.match(r[3], '^session:(.*)$')
    if session and not current_run(session) then free_session(session, now) end
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'held', '-inf', now, 'LIMIT', 0, ARGV[1])) do
  check(id)
end

for _, session in ipairs(redis.call('ZRANGEBYSCORE', P .. 'sessions', '-inf', now - ARGV[2], 'LIMIT', 0, ARGV[1])) do
  if current_run(session) then
    redis.call('ZADD', P .. 'sessions', now, session)
  else
    redis.call('ZREM', P .. 'sessions', session)
    for _, kind in ipairs({ SESSION, 'session_state:', 'session_runs:' }) do
      redis.call('UNLINK', P .. kind .. session)
    end
    redis.call('SET', P .. 'grant_epoch:' .. session, now, 'PX', ARGV[3])
  end
end
return { ending, take_woken() }
