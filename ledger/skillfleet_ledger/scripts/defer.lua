-- Leave a queued run to a worker of another version: its message is published again after a moment.
--
-- ARGV[1]  run id
-- ARGV[2]  token of the run, as the claim that gave no lease returned it
-- ARGV[3]  after how many milliseconds its message is published again
-- ARGV[4]  for how many milliseconds since the last attempt was over the run may be left to others
--
-- Returns 1, or 0 when nothing was changed: the time is up, or the run is not as the claim found it.
local id = ARGV[1]
local run = run_key(id)
local r = redis.call('HMGET', run, 'state', 'token', 'queue', 'priority', 'due', 'held', 'deferred')
if r[1] ~= 'queued' or r[2] ~= ARGV[2] or r[6] then return 0 end

-- Each attempt has a token of its own: what an earlier one has waited does not count.
local now = now_ms()
local token, since = string.match(r[7] or '', '^(%d+) (%d+)$')
if token ~= r[2] then since = now end
if now - tonumber(since) >= tonumber(ARGV[4]) then return 0 end

local due = now + tonumber(ARGV[3])
leave_queued(id, r[3], r[4], r[5])
redis.call('ZREM', P .. 'unpublished', id)
redis.call('HSET', run, 'due', due, 'published', due, 'deferred', r[2] .. ' ' .. since)
start_delay(id, r[3], due)
return 1
