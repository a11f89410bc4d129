-- Ask for the end of a run: a queued one ends here, a running one is cancelled by its worker.
--
-- KEYS[2]  the key of the result in Celery's format
-- ARGV[1]  run id
-- ARGV[2]  reason, for people
-- ARGV[3]  reason code
-- ARGV[4]  payload of the final event
-- ARGV[5]  the result in Celery's format
-- ARGV[6]  '1': a run with children is only marked, so that it makes no calls and is not claimed
--          any more; the caller comes again once it has cancelled the children
-- ARGV[7]  the request, 16 characters: one that comes again gets the answer it missed; or ''
--
-- Returns {what, {child ids}}: what is 'unknown', 'ended', 'cancelled' (it was queued; then follow
-- the ids of the runs that its end has made ready, which the caller publishes), 'asked' (it is
-- running, or was when the request came first) or 'marked'.
local id = ARGV[1]
local run = run_key(id)
local r = read_for_finish(id)
local worker, asked = r[15], r[16]
if not r[1] then return { 'unknown', {} } end
local children = redis.call('SMEMBERS', P .. 'children:' .. id)
if not is_live(r[1]) then return { is_known(r[18], ARGV[7]) and 'asked' or 'ended', children } end
note_request(id, r[18], ARGV[7])
if ARGV[6] == '1' and #children > 0 then
  if not asked then mark_cancelled(id, r[17], ARGV[2], ARGV[3]) end
  -- Should the caller not come again, the reaper does.
  add_cleanup(id, now_ms() + CLEANUP_MS)
  return { 'marked', children }
end
if r[1] ~= 'running' then
  redis.call('HSET', run, 'cancel', ARGV[2], 'cancel_code', ARGV[3])
  finish(id, r, 'cancelled', ARGV[3], ARGV[2], ARGV[4], KEYS[2], ARGV[5])
  return { 'cancelled', children, take_woken() }
end
if not asked then mark_cancelled(id, r[17], ARGV[2], ARGV[3]) end
remove_cleanup(id)
redis.call('PUBLISH', P .. 'worker:' .. worker, 'cancel ' .. id .. ' ' .. (asked or ARGV[2]))
return { 'asked', children }
