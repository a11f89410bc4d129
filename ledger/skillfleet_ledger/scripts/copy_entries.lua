-- Copy entries of another run's journal, which lies on the same shard, only under the lease, until all
-- are copied. What the run has recorded itself stays.
--
-- ARGV[1]  run id
-- ARGV[2]  token of the lease
-- ARGV[3]  id of the other run
-- ARGV[4]  '1' with the last entries: later calls copy nothing
-- ARGV[5..] identity of an entry, digest of its value or '' pairs
--
-- Returns 1, 0 when the lease is gone, 2 when all were copied before.
local id, from = ARGV[1], ARGV[3]
local r = redis.call('HMGET', run_key(id), 'token', 'state', 'copied')
if not holds_lease(r[2], r[1], ARGV[2]) then return 0 end
if r[3] then return 2 end
for i = 5, #ARGV, 2 do
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
if ARGV[4] == '1' then redis.call('HSET', run_key(id), 'copied', '1') end
return 1
