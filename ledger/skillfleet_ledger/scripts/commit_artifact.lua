-- Make an uploaded artifact visible under its name, only under the lease.
--
-- ARGV[1]  run id
-- ARGV[2]  token of the lease
-- ARGV[3]  name
-- ARGV[4]  its description as JSON; field blob names the upload
-- ARGV[5]  most artifacts of a run
--
-- Returns 1, 0 when the lease is gone, or -1 when the run has too many artifacts. What the name held before is deleted.
local id = ARGV[1]
local r = redis.call('HMGET', run_key(id), 'token', 'state')
if not holds_lease(r[2], r[1], ARGV[2]) then return 0 end
local artifacts = P .. 'artifacts:' .. id
local blob = P .. 'blob:' .. id .. ':'
local before = redis.call('HGET', artifacts, ARGV[3])
if not before and redis.call('HLEN', artifacts) >= tonumber(ARGV[5]) then return -1 end
local upload = cjson.decode(ARGV[4]).blob
if before and cjson.decode(before).blob ~= upload then
  redis.call('UNLINK', blob .. cjson.decode(before).blob)
end
redis.call('HSET', artifacts, ARGV[3], ARGV[4])
redis.call('HSET', run_key(id), 'artifacts', 1)
redis.call('PERSIST', blob .. upload)
return 1
