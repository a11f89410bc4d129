-- Read what the snapshots of several runs are made of.
--
-- ARGV[1]  number of fields that are read of each record; their names follow, then the ids of the runs
--
-- Returns {values, listed attempts, number of children} for each run; {} where these are unreadable.
local count = tonumber(ARGV[1])
local fields = { unpack(ARGV, 2, count + 1) }

local function snapshot(id)
  return {
    redis.call('HMGET', run_key(id), unpack(fields)),
    redis.call('LRANGE', P .. 'attempts:' .. id, 0, -1),
    redis.call('SCARD', P .. 'children:' .. id),
  }
end

local found = {}
for i = count + 2, #ARGV do
  local is_readable, run = pcall(snapshot, ARGV[i])
  found[#found + 1] = is_readable and run or {}
end
return found
