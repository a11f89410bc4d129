-- The part of a reaper's round that looks at held runs: what waited too long for a worker that serves it
-- must end.
--
-- ARGV[1]  most runs that are handled
--
-- Returns a flat list of id and token of the runs that the caller ends. Each comes again some seconds
-- later, should its end fail.
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
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'held', '-inf', now, 'LIMIT', 0, ARGV[1])) do
  check(id)
end
return ending
