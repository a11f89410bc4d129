-- Take the right to write to a workspace, or give it back.
--
-- The right of a run ends with the lease of the attempt that took it; that of a producer after a time.
--
-- ARGV[1]  workspace
-- ARGV[2]  the right: a name that no other call has
-- ARGV[3]  who takes it, for those who find it taken; '' to give it back
-- ARGV[4]  run id; '' for a producer
-- ARGV[5]  token of the run's lease
-- ARGV[6]  how long a right without a run lasts, milliseconds from now
-- ARGV[7]  when to look for unused objects, milliseconds from now
--
-- Returns one of
--   {1}          done, also after an answer that was lost
--   {0}          the lease is gone
--   {-2, holder} another one has the right
local workspace, right, run, now = P .. 'workspace:' .. ARGV[1], ARGV[2], ARGV[4], now_ms()
local w = redis.call('HMGET', workspace, 'right', 'holder', 'run', 'token', 'until')
if ARGV[3] == '' then
  if w[1] == right then redis.call('HSET', workspace, 'right', '') end
  return { 1 }
end
if run ~= '' then
  local r = redis.call('HMGET', run_key(run), 'state', 'token')
  if not holds_lease(r[1], r[2], ARGV[5]) then return { 0 } end
end
if (w[1] or '') ~= '' and w[1] ~= right then
  local r = redis.call('HMGET', run_key(w[3]), 'state', 'token')
  if holds_lease(r[1], r[2], w[4]) or (tonumber(w[5]) or 0) > now then return { -2, w[2] } end
end
local ends = run == '' and now + tonumber(ARGV[6]) or 0
redis.call('HSET', workspace, 'right', right, 'holder', ARGV[3], 'run', run, 'token', ARGV[5], 'until', ends)
redis.call('ZADD', P .. 'workspaces', 'NX', now + tonumber(ARGV[7]), ARGV[1])
return { 1 }
