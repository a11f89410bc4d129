-- Renew the leases of all runs of one worker process in one round trip.
--
-- ARGV[1]  lease, milliseconds
-- ARGV[2]  worker
-- ARGV[3..] run id, token, executing time (ms) of each run's attempt; -1 for a run without a limit of it
--
-- Returns one answer for each run: '' renewed, 'lost', or the reason of a cancellation
-- (renewed as well) with a leading '!'.
local lease, now = tonumber(ARGV[1]), now_ms()
redis.call('ZADD', P .. 'workers', now + lease, ARGV[2])
local answers = {}
for i = 3, #ARGV, 3 do
  local r = redis.call('HMGET', run_key(ARGV[i]), 'token', 'state', 'cancel')
  if not holds_lease(r[2], r[1], ARGV[i + 1]) then
    answers[#answers + 1] = 'lost'
  else
    redis.call('ZADD', P .. 'leases', now + lease, ARGV[i])
    -- The reaper counts it if the attempt is lost.
    if ARGV[i + 2] ~= '-1' then redis.call('HSET', run_key(ARGV[i]), 'executed', ARGV[i + 1] .. ' ' .. ARGV[i + 2]) end
    answers[#answers + 1] = r[3] and ('!' .. r[3]) or ''
  end
end
return answers
