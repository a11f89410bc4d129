-- Ask for the end of a run on behalf of a user who may not write results (deploy/redis):
-- a worker, or else the reaper's next round, ends it.
--
-- ARGV[1]  run id
-- ARGV[2]  reason, for people
-- ARGV[3]  reason code
-- ARGV[4]  '1': a run with children is only marked (cancel.lua)
--
-- Returns {what, {child ids}}: what is 'unknown', 'ended', 'asked' or 'marked'.
local id = ARGV[1]
local run = run_key(id)
local r = redis.call('HMGET', run, 'state', 'worker', 'cancel', 'queue')
if not r[1] then return { 'unknown', {} } end
local children = redis.call('SMEMBERS', P .. 'children:' .. id)
if ARGV[4] == '1' and mark_cancelled(id, r[1], r[3], ARGV[2], ARGV[3], children) then
  return { 'marked', children }
end
if r[1] ~= 'queued' and r[1] ~= 'running' then return { 'ended', children } end
if not r[3] then redis.call('HSET', run, 'cancel', ARGV[2], 'cancel_code', ARGV[3]) end
if r[1] == 'queued' then
  start_delay(id, r[4], now_ms())
else
  redis.call('PUBLISH', P .. 'worker:' .. r[2], 'cancel ' .. id .. ' ' .. (r[3] or ARGV[2]))
end
return { 'asked', children }
