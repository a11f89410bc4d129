-- Note an upload to the object store before it begins, only under the lease.
--
-- What is never committed is found so, and deleted (due_uploads.lua).
--
-- ARGV[1]  run id
-- ARGV[2]  token of the lease
-- ARGV[3]  name of the object within the run
-- ARGV[4]  name of the artifact; '' for a value of the journal
-- ARGV[5]  when to look at it for the first time, milliseconds from now
--
-- Returns 1, or 0 when the lease is gone.
local id = ARGV[1]
local r = redis.call('HMGET', run_key(id), 'token', 'state')
if not holds_lease(r[2], r[1], ARGV[2]) then return 0 end
local upload = table.concat({ id, ARGV[2], ARGV[3], ARGV[4] }, ':')
redis.call('ZADD', P .. 'uploads', now_ms() + tonumber(ARGV[5]), upload)
return 1
