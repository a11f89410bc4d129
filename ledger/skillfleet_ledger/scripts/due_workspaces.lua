-- Find workspaces whose unused objects are to be deleted; forget those that nothing needs any more.
--
-- A workspace is needed while its session or its run at the root is recorded. One that a producer filled
-- before the session's first run is kept for as long as an unused session.
--
-- ARGV[1]  most workspaces to look at
-- ARGV[2]  when to look at one again, milliseconds from now
-- ARGV[3]  how long a workspace is kept without a session, milliseconds after its last change
-- ARGV[4..]  workspaces that have no objects any more
--
-- Returns workspace, manifest pairs: all objects but those of the manifest are unused. They are returned
-- again after that time.
local now, found = now_ms(), {}
for i = 4, #ARGV do
  if redis.call('EXISTS', P .. 'workspace:' .. ARGV[i]) == 0 then redis.call('ZREM', P .. 'workspaces', ARGV[i]) end
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', P .. 'workspaces', '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local kind, owner = string.match(name, '^(%l+):(.*)$')
  local workspace = P .. 'workspace:' .. name
  local needed = redis.call('EXISTS', kind == 'session' and session_key(owner) or run_key(owner or name)) == 1
  local w = redis.call('HMGET', workspace, 'manifest', 'changed')
  local kept = kind == 'session' and now - (tonumber(w[2]) or 0) < tonumber(ARGV[3])
  if not needed and not kept then redis.call('UNLINK', workspace) end
  redis.call('ZADD', P .. 'workspaces', now + tonumber(ARGV[2]), name)
  found[#found + 1] = name
  found[#found + 1] = (needed or kept) and w[1] or ''
end
return found
