-- Make an uploaded artifact visible under its name, only under the lease.
--
-- ARGV[1]  run id
-- ARGV[2]  token of the lease
-- ARGV[3]  name
-- ARGV[4]  its description as JSON; field blob names the upload
--
-- Returns 1, or 0 when the lease is gone. What the name held before is deleted.
local id = ARGV[1]
local r = redis.call('HMGET', run_key(id), 'token', 'state')
if r[1] ~= ARGV[2] or r[2] ~= 'running' then return 0 end
local artifacts = P .. 'artifacts:' .. id
local blob = P .. 'blob:' .. id .. ':'
local before = redis.call('HGET', artifacts, ARGV[3])
local upload = cjson.decode(ARGV[4]).blob
if before and cjson.decode(before).blob ~= upload then
  redis.call('UNLINK', blob .. cjson.decode(before).blob)
end
redis.call('HSET', artifacts, ARGV[3], ARGV[4])
redis.call('PERSIST', blob .. upload)
return 1
