-- Ask for the end of a run on behalf of a user who may not write results (deploy/redis):
-- a worker, or else the reaper's next round, ends it.
--
-- ARGV[1]  run id
-- ARGV[2]  reason, for people
-- ARGV[3]  reason code
-- ARGV[4]  '1': a run with children is only marked (cancel.lua)
-- ARGV[5]  the request (cancel.lua)
--
-- Returns {what, {child ids}}: what is 'unknown', 'ended', 'asked' or 'marked'.
local id = ARGV[1]
local run = run_key(id)
local r = redis.call('HMGET', run, 'state', 'worker', 'cancel', 'parent', 'requests')
if not r[1] then return { 'unknown', {} } end
local children = redis.call('SMEMBERS', P .. 'children:' .. id)
if not is_live(r[1]) then return { is_known(r[5], ARGV[5]) and 'asked' or 'ended', children } end
note_request(id, r[5], ARGV[5])
if not r[3] then mark_cancelled(id, r[4], ARGV[2], ARGV[3]) end
if ARGV[4] == '1' and #children > 0 then
  add_cleanup(id, now_ms() + CLEANUP_MS)
  return { 'marked', children }
end
if r[1] ~= 'running' then
  add_cleanup(id, now_ms())
else
  redis.call('PUBLISH', P .. 'worker:' .. r[2], 'cancel ' .. id .. ' ' .. (r[3] or ARGV[2]))
end
return { 'asked', children }
