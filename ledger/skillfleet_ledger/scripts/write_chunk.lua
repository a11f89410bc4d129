-- Store one chunk of an artifact's upload, only under the lease.
--
-- ARGV[1]  run id
-- ARGV[2]  token of the lease
-- ARGV[3]  upload
-- ARGV[4]  number of the chunk, from 0
-- ARGV[5]  the bytes
-- ARGV[6]  how long an upload that is never committed is kept, milliseconds
--
-- Returns 1, or 0 when the lease is gone.
local id = ARGV[1]
local r = redis.call('HMGET', run_key(id), 'token', 'state')
if not holds_lease(r[2], r[1], ARGV[2]) then return 0 end
local key = P .. 'blob:' .. id .. ':' .. ARGV[3]
-- Whichever chunk arrives first starts the clock: any of them may be the only one that does.
local fresh = redis.call('EXISTS', key) == 0
redis.call('HSET', key, ARGV[4], ARGV[5])
if fresh then redis.call('PEXPIRE', key, ARGV[6]) end
return 1
