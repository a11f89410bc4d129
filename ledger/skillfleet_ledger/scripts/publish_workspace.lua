-- Make a new manifest the state of a workspace, if that is still the one it is based upon.
--
-- ARGV[1]  workspace
-- ARGV[2]  the manifest it is based upon; '' for a workspace that has none yet
-- ARGV[3]  the new manifest, which no other call has
-- ARGV[4]  run id; '' for a producer
-- ARGV[5]  token of the run's lease
-- ARGV[6]  the caller's right to write; '' without one
-- ARGV[7]  1 when it changes files, 0 when it changes only the state beside them
-- ARGV[8]  how long a right without a run lasts, milliseconds from now
-- ARGV[9]  when to look for unused objects, milliseconds from now
--
-- Returns one of
--   {1}          it is the state now, also after an answer that was lost
--   {0}          the lease is gone
--   {-1}         the state is another one
--   {-2, holder} the caller's right is gone, or another one has the right
local workspace, run, right, now = P .. 'workspace:' .. ARGV[1], ARGV[4], ARGV[6], now_ms()
if run ~= '' then
  local r = redis.call('HMGET', run_key(run), 'state', 'token')
  if not holds_lease(r[1], r[2], ARGV[5]) then return { 0 } end
end
local w = redis.call('HMGET', workspace, 'manifest', 'right', 'holder', 'run', 'token', 'until')
if w[1] == ARGV[3] then return { 1 } end
if (w[1] or '') ~= ARGV[2] then return { -1 } end
if right ~= '' and w[2] ~= right then return { -2, w[3] or '' } end
if right == '' and ARGV[7] == '1' and (w[2] or '') ~= '' then
  local r = redis.call('HMGET', run_key(w[4]), 'state', 'token')
  if holds_lease(r[1], r[2], w[5]) or (tonumber(w[6]) or 0) > now then return { -2, w[3] } end
end
redis.call('HSET', workspace, 'manifest', ARGV[3], 'changed', now)
if right ~= '' and run == '' then redis.call('HSET', workspace, 'until', now + tonumber(ARGV[8])) end
redis.call('ZADD', P .. 'workspaces', 'NX', now + tonumber(ARGV[9]), ARGV[1])
return { 1 }
