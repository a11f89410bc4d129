-- Keep the joined texts of recorded steps beside the stream, before their events are trimmed, only under
-- the lease.
--
-- ARGV[1]  run id
-- ARGV[2]  token of the lease
-- ARGV[3]  number of the last event that was looked at
-- ARGV[4]  most texts of a run
-- ARGV[5..] number of the first event, the text (streams.py) pairs
--
-- Returns 1, or 0 when the lease is gone. Safe to repeat.
local id = ARGV[1]
local r = redis.call('HMGET', run_key(id), 'token', 'state')
if not holds_lease(r[2], r[1], ARGV[2]) then return 0 end
local texts = P .. 'texts:' .. id
for i = 5, #ARGV, 2 do redis.call('ZADD', texts, ARGV[i], ARGV[i + 1]) end
redis.call('ZREMRANGEBYRANK', texts, 0, -1 - tonumber(ARGV[4]))
redis.call('HSET', run_key(id), 'compacted', ARGV[3])
return 1
