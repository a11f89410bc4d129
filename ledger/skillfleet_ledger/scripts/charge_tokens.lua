-- Charge tokens to the budgets of a run and of those above it.
--
-- ARGV[1]  run id
-- ARGV[2]  number of tokens
--
-- Returns 1 when one of the budgets is used up by now, else 0.
local up, exhausted = ARGV[1], 0
while up do
  local r = redis.call('HMGET', run_key(up), 'budget_tokens', 'parent')
  if r[1] and redis.call('HINCRBY', run_key(up), 'spent_tokens', ARGV[2]) >= tonumber(r[1]) then exhausted = 1 end
  up = r[2]
end
return exhausted
