-- Execute several calls of one script: its text is put in front of this one, as function `execute`.
--
-- KEYS[2..] keys of all calls, one call after the other, without the prefix
-- ARGV[1]   how many calls
-- ARGV[2..] how many keys beside the prefix and how many arguments each call has
-- then      arguments of all calls, one call after the other
--
-- Returns the reply of each call; an error is that of its own call only.
local count = tonumber(ARGV[1])
local replies, key, position = {}, 1, 1 + 2 * count
collected, newest = {}, {}

for i = 1, count do
  local keys, args = { P }, {}
  for k = 1, tonumber(ARGV[2 * i]) do keys[1 + k] = KEYS[key + k] end
  for k = 1, tonumber(ARGV[2 * i + 1]) do args[k] = ARGV[position + k] end
  key, position = key + #keys - 1, position + #args
  local succeeded, reply = pcall(execute, keys, args)
  if not succeeded then
    -- Redis's own errors begin with their code.
    reply = { err = string.match(reply, '^%u+ ') and reply or 'ERR Error running script in a batch: ' .. reply }
  end
  replies[i] = reply or false
end
for _, entry in ipairs(collected) do redis.call(unpack(entry)) end
return replies
