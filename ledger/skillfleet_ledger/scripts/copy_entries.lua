-- Copy entries of another run's journal, which lies on the same shard, only under the lease. What the
-- run has recorded itself stays.
--
-- ARGV[1]  run id
-- ARGV[2]  token of the lease
-- ARGV[3]  id of the other run
-- ARGV[4..] identity of an entry, digest of its value or '' pairs
--
-- Returns 1, or 0 when the lease is gone.
local id, from = ARGV[1], ARGV[3]
local r = redis.call('HMGET', run_key(id), 'token', 'state')
if not holds_lease(r[2], r[1], ARGV[2]) then return 0 end
for i = 4, #ARGV, 2 do
  local identity, digest = ARGV[i], ARGV[i + 1]
  local entry = redis.call('HGET', P .. 'journal:' .. from, identity)
  if entry and redis.call('HSETNX', P .. 'journal:' .. id, identity, entry) == 1 then
    redis.call('HSET', run_key(id), 'journal', '1')
    if digest ~= '' then
      local blob = P .. 'blob:' .. id .. ':' .. digest
      redis.call('COPY', P .. 'blob:' .. from .. ':' .. digest, blob)
      redis.call('PERSIST', blob)
      redis.call('SADD', P .. 'values:' .. id, digest)
    end
  end
end
return 1
